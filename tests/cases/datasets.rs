//! Data sets from the hub, served by a small server in this process.

use crate::program::World;

use super::server::{Files, Hub, REPO};

/// `org/name` is a data set of the hub: the files of the key's split, from one commit; from the
/// cache where the hub cannot be asked; other bytes than a run began with are refused.
#[test]
fn a_data_set_by_hub_id() {
    let world = World::new();
    let row =
        |n: usize| format!("{{\"prompt\": \"Reverse {n}.\", \"response\": \"The answer.\"}}\n");
    let rows = |from: usize| (from..from + 8).map(row).collect::<String>().into_bytes();
    let files = Files::from([
        ("README.md".to_owned(), b"a data set".to_vec()),
        ("data/train-00000-of-00002.jsonl".to_owned(), rows(100)),
        ("data/train-00001-of-00002.jsonl".to_owned(), rows(200)),
        ("data/test.jsonl".to_owned(), rows(300)),
    ]);
    let (first, second) = ("1".repeat(40), "2".repeat(40));
    let hub = Hub::serve(&[(&first, files.clone())]);
    let run = |offline: &str, address: &str, args: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_randori"));
        for proxy in [
            "http_proxy",
            "HTTP_PROXY",
            "https_proxy",
            "HTTPS_PROXY",
            "all_proxy",
            "ALL_PROXY",
        ] {
            command.env_remove(proxy);
        }
        let out = command
            .args(args)
            .current_dir(world.dir())
            .env("HF_HOME", world.dir().join("home"))
            .env("HF_ENDPOINT", address)
            .env("HF_HUB_OFFLINE", offline)
            .env_remove("HF_HUB_CACHE")
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (out.status.code(), text(&out.stdout), text(&out.stderr))
    };
    let (train, held_out) = (
        format!("data.train={REPO}"),
        format!("data.held_out={REPO}"),
    );
    let sets = ["--set", train.as_str(), "--set", held_out.as_str()];
    let args = |verb: &'static str| [[verb, "r.toml"].as_slice(), &sets].concat();
    let said = run("0", &hub.address, &args("inspect"));
    assert!(said.1.contains("16 of 16 examples kept"), "{said:?}");
    let said = run("0", &hub.address, &args("run"));
    assert_eq!(said.0, Some(0), "{said:?}");
    // without a network the cache knows
    let said = run("1", "http://127.0.0.1:9", &args("run"));
    assert_eq!(said.0, Some(0), "{said:?}");
    // a commit by name stays what it is though the branch moves
    let mut moved = files.clone();
    moved.insert("data/test.jsonl".to_owned(), rows(400));
    let hub = Hub::serve(&[(&first, files), (&second, moved)]);
    let fixed = format!("data.train={REPO}@{first}:test");
    let said = run(
        "0",
        &hub.address,
        &["inspect", "r.toml", "-n", "9", "--set", &fixed],
    );
    assert!(
        said.1.contains("Reverse 300.") && !said.1.contains("Reverse 400."),
        "{said:?}"
    );
    let other = format!("data.train={REPO}:nothing");
    let said = run("0", &hub.address, &["inspect", "r.toml", "--set", &other]);
    assert!(
        said.2.contains("has no files of the split `nothing`"),
        "{said:?}"
    );
    let absent = run(
        "0",
        &hub.address,
        &["inspect", "r.toml", "--set", "data.train=no/such"],
    );
    assert!(
        absent.0 == Some(1) && absent.2.contains("no/such"),
        "{absent:?}"
    );
}
