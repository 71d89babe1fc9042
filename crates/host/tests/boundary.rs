//! What goes wrong inside an architecture becomes one sentence with the plugin's file and line, and
//! the host goes on.

use crate::recorder::{Recorder, forward, misbehave};

/// The error of a forward pass of the architecture that misbehaves as `how` says.
fn failure(how: &str, prepare: impl FnOnce(&mut Recorder)) -> String {
    let config = format!(r#"{{"misbehave": "{how}"}}"#);
    let arch = match misbehave().architecture("misfit", &config) {
        Ok(arch) => arch,
        Err(error) => return error.to_string(),
    };
    let mut recorder = Recorder::new(3);
    prepare(&mut recorder);
    match forward(&*arch, &mut recorder) {
        Ok(shape) => panic!("{how}: answered {shape:?}"),
        Err(error) => error,
    }
}

/// The line of the plugin's source that holds `code`, as messages show it.
fn place(code: &str) -> String {
    let source = include_str!("../../../plugins/misbehave/src/lib.rs");
    let mut lines = source.lines().enumerate();
    let (line, _) = lines.find(|(_, line)| line.contains(code)).unwrap();
    format!("plugins/misbehave/src/lib.rs:{})", line + 1)
}

#[test]
fn well_behaved_runs() {
    let arch = misbehave().architecture("misfit", "{}").unwrap();
    assert_eq!(arch.name(), "misfit");
    assert_eq!(forward(&*arch, &mut Recorder::new(3)), Ok(vec![3, 8]));
}

#[test]
fn panics_are_caught_with_their_place() {
    for (part, code, says) in [
        (
            "new",
            "new was asked",
            "architecture misfit: the plugin panicked: new was asked to panic",
        ),
        (
            "layers",
            "layers was asked",
            "architecture misfit has no layers: the plugin panicked: layers was asked to panic",
        ),
        (
            "embed",
            "embed was asked",
            "architecture misfit, embed: the plugin panicked: embed was asked to panic",
        ),
        (
            "block",
            "} was asked to panic\"),",
            "architecture misfit, block 0: the plugin panicked: block 0 was asked to panic",
        ),
        (
            "expert",
            "expert {expert} was",
            "architecture misfit, block 0: the plugin panicked: expert 0 was asked to panic",
        ),
        (
            "head",
            "head was asked",
            "architecture misfit, head: the plugin panicked: head was asked to panic",
        ),
    ] {
        let error = failure(&format!("panic in {part}"), |_| {});
        let (message, at) = error.rsplit_once(" (").unwrap();
        assert_eq!(message, says);
        assert!(
            place(code).ends_with(at.rsplit('/').next().unwrap()),
            "{at} is not {}",
            place(code)
        );
    }
}

#[test]
fn a_panic_while_dropping_stays_inside() {
    let arch = misbehave().architecture("misfit", r#"{"misbehave": "panic in drop"}"#);
    drop(arch.unwrap());
}

#[test]
fn other_refusals_are_plain() {
    assert_eq!(
        failure("error in new", |_| {}),
        "architecture misfit: new was asked to fail"
    );
    let error = failure("no layers", |_| {});
    assert_eq!(
        error,
        "architecture misfit has no layers: it failed without saying why"
    );
    let error = failure("gives up", |_| {});
    assert!(
        error.starts_with("architecture misfit, block 0: block gave up ("),
        "{error}"
    );
    assert!(error.ends_with(&place("g.fail(")), "{error}");
}

#[test]
fn a_missing_weight_names_the_weight_and_the_line() {
    let only = |r: &mut Recorder| r.only = vec!["embed.weight".into(), "router.weight".into()];
    for (how, code) in [
        ("missing weight", "g.linear(\"missing\", x, 4) + x"),
        ("missing weight in expert", "g.linear(\"missing\", rows, 4)"),
        ("two failures", "let first"),
    ] {
        let error = failure(how, only);
        let says = "architecture misfit, block 0: `linear` of missing: the checkpoint has no missing.weight (";
        assert!(error.starts_with(says), "{error}");
        assert!(
            error.ends_with(&place(code)),
            "{error}: not {}",
            place(code)
        );
    }
}

#[test]
fn shapes_that_do_not_fit_name_the_op_and_the_line() {
    let error = failure("wrong shape", |_| {});
    assert!(
        error.contains("block 0: `add`: [3, 5] and [3, 4] do not fit ("),
        "{error}"
    );
    assert!(
        error.ends_with(&place("g.linear(\"well\", x, 5).silu() + x")),
        "{error}"
    );
    let error = failure("wrong heads", |_| {});
    assert!(
        error.contains("`attention`: wants (tokens, heads, head_dim), got [3, 4] ("),
        "{error}"
    );
}

#[test]
fn a_panic_of_the_host_is_its_own_and_leaves_the_host_usable() {
    let error = failure("well", |r| r.panics_at = Some("linear"));
    let says = "architecture misfit, block 0: `linear` of well: the host panicked: the backend was asked to panic at linear (";
    assert!(error.starts_with(says), "{error}");
    assert!(error.contains("recorder/mod.rs:"), "{error}");
    well_behaved_runs();
}

#[test]
fn after_a_failure_the_backend_is_left_alone() {
    let arch = misbehave()
        .architecture("misfit", r#"{"misbehave": "two failures"}"#)
        .unwrap();
    let mut recorder = Recorder::new(3);
    recorder.only = vec!["embed.weight".into()];
    forward(&*arch, &mut recorder).unwrap_err();
    assert_eq!(recorder.ops, ["embed embed", "linear missing"]);
}
