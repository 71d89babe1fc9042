//! Output among a user's own files: only what an earlier export wrote is replaced, and a kill at
//! any operation loses no file.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use randori_store::{Disk, OutFiles, OutFolder, Result};

/// Writes a folder with these files.
fn export(disk: Disk, out: &Path, files: &[(&str, &str)]) -> Result<()> {
    OutFolder::open(disk, out)?.write(|fresh| {
        fs::create_dir(fresh)?;
        for (name, text) in files {
            fs::write(fresh.join(name), text)?;
        }
        Ok(())
    })
}

const FIRST: [(&str, &str); 3] = [("README.md", "card 1"), ("a", "1"), ("b", "1")];
const SECOND: [(&str, &str); 3] = [("README.md", "card 2"), ("a", "2"), ("c", "2")];

/// Every file below a folder, hidden ones too, by its path and with its text; links with what they
/// say.
fn tree(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()) {
        let meta = fs::symlink_metadata(&entry).unwrap();
        let below = |path: &Path| path.strip_prefix(dir).unwrap().to_owned();
        if meta.is_symlink() {
            let to = fs::read_link(&entry).unwrap();
            all.insert(below(&entry), format!("-> {}", to.display()));
        } else if meta.is_dir() {
            let inside = tree(&entry);
            all.extend(
                inside
                    .into_iter()
                    .map(|(path, text)| (below(&entry.join(path)), text)),
            );
        } else {
            all.insert(below(&entry), fs::read_to_string(&entry).unwrap());
        }
    }
    all
}

/// Puts a user's files beside an export.
fn people(out: &Path) {
    fs::write(out.join("notes.txt"), "mine").unwrap();
    fs::create_dir_all(out.join("evals/more")).unwrap();
    fs::write(out.join("evals/more/scores.json"), "mine too").unwrap();
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("evals", out.join("latest")).unwrap();
        std::os::unix::fs::symlink("nowhere", out.join("dangling")).unwrap();
    }
}

/// The names in a folder.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let name = |e: io::Result<fs::DirEntry>| e.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<String> = entries.map(name).collect();
    names.sort();
    names
}

#[test]
fn only_what_was_written_before_is_replaced() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("m");
    export(Disk::new(), &out, &FIRST).unwrap();
    people(&out);
    fs::remove_file(out.join("b")).unwrap(); // nobody has to keep what we wrote
    export(Disk::new(), &out, &SECOND).unwrap();
    let mut want = vec!["README.md", "a", "c", "evals", "exported.json", "notes.txt"];
    if cfg!(unix) {
        want.extend(["dangling", "latest"]);
        want.sort();
    }
    assert_eq!(names(&out), want);
    assert_eq!(names(home.path()), ["m"]);
    let all = tree(&out);
    assert_eq!(all[Path::new("README.md")], "card 2");
    assert_eq!(all[Path::new("notes.txt")], "mine");
    assert_eq!(all[Path::new("evals/more/scores.json")], "mine too");
    // and once more, with what was written by the first gone from the list
    export(Disk::new(), &out, &FIRST).unwrap();
    assert!(!out.join("c").exists() && out.join("notes.txt").exists());
}

#[track_caller]
fn refused(out: &Path, why: &str) {
    let home = out.parent().unwrap();
    let before = tree(home);
    let error = export(Disk::new(), out, &SECOND).unwrap_err().to_string();
    assert!(error.contains(why), "{error}");
    assert!(
        error.contains("move it away, or name a new place"),
        "{error}"
    );
    assert_eq!(tree(home), before);
}

#[test]
fn what_somebody_changed_or_put_there_is_a_refusal() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("m");
    export(Disk::new(), &out, &FIRST).unwrap();
    // an edited model card
    fs::write(out.join("README.md"), "card 1, and how I use it").unwrap();
    refused(
        &out,
        "README.md: something else is there (it was changed since it was exported)",
    );
    fs::write(out.join("README.md"), "card 1").unwrap();
    // a file of a name that the next export wants
    fs::write(out.join("c"), "mine").unwrap();
    refused(
        &out,
        "an export writes this file, and it was not one that put it there",
    );
    fs::remove_file(out.join("c")).unwrap();
    // a folder in the place of a file
    fs::remove_file(out.join("a")).unwrap();
    fs::create_dir(out.join("a")).unwrap();
    fs::write(out.join("a/x"), "mine").unwrap();
    refused(&out, "/a: something else is there (it was changed");
    // somebody's folder, somebody's file
    let theirs = home.path().join("theirs");
    fs::create_dir(&theirs).unwrap();
    fs::write(theirs.join("README.md"), "tags:\n- \"randori\"\n").unwrap();
    refused(&theirs, "it holds README.md and no exported.json");
    refused(&theirs.join("README.md"), "a file is there");
    // an empty folder is a place
    let empty = home.path().join("empty");
    fs::create_dir(&empty).unwrap();
    export(Disk::new(), &empty, &FIRST).unwrap();
}

#[cfg(unix)]
#[test]
fn links_are_followed_to_the_folder_and_never_replaced() {
    use std::os::unix::fs::symlink;
    let home = tempfile::tempdir().unwrap();
    let (store, link) = (home.path().join("store"), home.path().join("link"));
    fs::create_dir(&store).unwrap();
    symlink("store", &link).unwrap();
    export(Disk::new(), &link, &FIRST).unwrap();
    export(Disk::new(), &link, &SECOND).unwrap();
    assert_eq!(fs::read_link(&link).unwrap(), Path::new("store"));
    assert_eq!(fs::read_to_string(store.join("a")).unwrap(), "2");
    // a file of ours that became a link to somebody's
    fs::write(home.path().join("other"), "2").unwrap();
    fs::remove_file(store.join("a")).unwrap();
    symlink("../other", store.join("a")).unwrap();
    refused(&store, "it was changed since it was exported");
    let nowhere = home.path().join("nowhere");
    symlink("gone", &nowhere).unwrap();
    refused(&nowhere, "it is a link to nothing");
}

/// A disk that dies at operation `at` and stays dead; and the number of operations so far.
fn dying(at: usize) -> (Disk, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let seen = count.clone();
    let disk = Disk::gated(move |_| match seen.fetch_add(1, SeqCst) < at {
        true => Ok(()),
        false => Err(io::Error::other("the machine is gone")),
    });
    (disk, count)
}

#[test]
fn an_export_that_dies_at_any_operation_loses_nothing() {
    let home = tempfile::tempdir().unwrap();
    let prepared = |name: &str| {
        let out = home.path().join(name).join("m");
        fs::create_dir(out.parent().unwrap()).unwrap();
        export(Disk::new(), &out, &FIRST).unwrap();
        people(&out);
        out
    };
    let undisturbed = prepared("undisturbed");
    let (disk, operations) = dying(usize::MAX);
    export(disk, &undisturbed, &SECOND).unwrap();
    let (want, operations) = (tree(&undisturbed), operations.load(SeqCst));
    assert!(operations > 10, "{operations}");
    for at in 0..operations {
        let out = prepared(&format!("run-{at}"));
        export(dying(at).0, &out, &SECOND).expect_err("the machine was gone");
        // what people put there is somewhere, whole
        let all = tree(out.parent().unwrap());
        for mine in ["mine", "mine too"] {
            assert!(all.values().any(|text| text == mine), "{at}: {all:?}");
        }
        // what stands under its name is one whole export
        if out.exists() {
            let card = fs::read_to_string(out.join("README.md")).unwrap();
            let texts = |files: &[(&str, &str)]| {
                let mut each = files.iter();
                each.all(|(name, text)| fs::read_to_string(out.join(name)).unwrap() == *text)
            };
            assert!(
                if card == "card 1" {
                    texts(&FIRST)
                } else {
                    texts(&SECOND)
                },
                "{at}"
            );
        }
        export(Disk::new(), &out, &SECOND).unwrap_or_else(|e| panic!("after {at}: {e}"));
        assert_eq!(tree(&out), want, "killed at operation {at}");
        assert_eq!(
            names(out.parent().unwrap()),
            ["m"],
            "killed at operation {at}"
        );
    }
}

/// Writes a file and one beside it.
fn files(disk: Disk, out: &Path, text: &str) -> Result<()> {
    let beside = out.with_extension("Modelfile");
    let mut files = OutFiles::open(disk, out, std::slice::from_ref(&beside))?;
    files.write(out, |fresh| Ok(fs::write(fresh, text)?))?;
    files.write(&beside, |fresh| {
        Ok(fs::write(fresh, format!("FROM {text}"))?)
    })
}

#[test]
fn files_beside_a_file_are_somebodys_once_they_are_changed() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("m.gguf");
    let beside = home.path().join("m.Modelfile");
    fs::write(home.path().join("m.txt"), "mine").unwrap();
    files(Disk::new(), &out, "1").unwrap();
    files(Disk::new(), &out, "2").unwrap();
    assert_eq!(fs::read_to_string(&beside).unwrap(), "FROM 2");
    assert_eq!(
        names(home.path()),
        ["m.Modelfile", "m.exported.json", "m.gguf", "m.txt"]
    );
    // what Ollama's users do
    fs::write(&beside, "FROM 2\nSYSTEM mine").unwrap();
    let error = files(Disk::new(), &out, "3").unwrap_err().to_string();
    assert!(
        error.contains("m.Modelfile: something else is there (it was changed"),
        "{error}"
    );
    assert_eq!(fs::read_to_string(&out).unwrap(), "2");
    fs::remove_file(&beside).unwrap();
    files(Disk::new(), &out, "3").unwrap();
    // what no list names
    let other = home.path().join("other.gguf");
    fs::write(&other, "theirs").unwrap();
    let error = files(Disk::new(), &other, "1").unwrap_err().to_string();
    assert!(
        error.contains("other.exported.json does not name it"),
        "{error}"
    );
    fs::remove_file(&other).unwrap();
    fs::create_dir(&other).unwrap();
    files(Disk::new(), &other, "1").unwrap_err();
    assert!(other.is_dir());
}

#[test]
fn files_that_die_at_any_operation_are_written_again() {
    let home = tempfile::tempdir().unwrap();
    let (disk, operations) = dying(usize::MAX);
    let out = home.path().join("x.gguf");
    files(Disk::new(), &out, "1").unwrap();
    files(disk, &out, "2").unwrap();
    for at in 0..operations.load(SeqCst) {
        let out = home.path().join(format!("{at}.gguf"));
        files(Disk::new(), &out, "1").unwrap();
        files(dying(at).0, &out, "2").expect_err("the machine was gone");
        assert!(["1", "2"].contains(&&*fs::read_to_string(&out).unwrap()));
        files(Disk::new(), &out, "2").unwrap_or_else(|e| panic!("after {at}: {e}"));
        let beside = fs::read_to_string(out.with_extension("Modelfile")).unwrap();
        assert_eq!(beside, "FROM 2");
    }
}

#[test]
fn a_file_never_takes_the_place_of_a_folder() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("thesis.txt"), "mine").unwrap();
    let error = Disk::new().write(home.path(), b"results").unwrap_err();
    assert!(error.to_string().contains("a folder is there"), "{error}");
    assert_eq!(names(home.path()), ["thesis.txt"]);
}
