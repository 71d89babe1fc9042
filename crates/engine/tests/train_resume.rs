//! Checkpoints: resuming at any step gives the same bytes; damage and mismatches are refused;
//! nothing is half-written.

use std::{fs, path::Path};

use randori_engine::{
    Player,
    train::{Control, Example, Optimizer, Pair, RmsProp, TrainSettings, Trainer},
};

use crate::tiny::*;

fn pairs() -> Vec<Pair> {
    let mut pairs = random_pairs(10, 1..6, 1..8, VOCAB, [0.0; 2]);
    for pair in &mut pairs {
        pair.ref_real = -3.0 * pair.real.len() as f64;
        pair.ref_generated = -3.0 * pair.generated.len() as f64;
    }
    pairs
}

fn settings(optimizer: Optimizer) -> TrainSettings {
    TrainSettings {
        optimizer,
        learning_rate: 3e-3,
        batch: 4,
        epochs: 2,
        micro_batch_tokens: 30,
        dropout: true,
        ..TrainSettings::default()
    }
}

fn train(trainer: &mut Trainer, until: usize) {
    trainer
        .train_pairs(&pairs(), &Logistic(0.5), &mut |m, _| {
            Ok(if m.step == until {
                Control::Stop
            } else {
                Control::Continue
            })
        })
        .unwrap();
}

/// Every file of a folder with its bytes.
fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap())
        .map(|e| {
            (
                e.file_name().into_string().unwrap(),
                fs::read(e.path()).unwrap(),
            )
        })
        .collect();
    files.sort();
    files
}

#[test]
fn resuming_at_any_step_gives_the_same_bytes() {
    let momentum = Optimizer::RmsProp(RmsProp {
        alpha: 0.9,
        eps: 1e-8,
        weight_decay: 0.01,
        momentum: 0.3,
    });
    let all = [
        (Optimizer::adamw(), 2),
        (Optimizer::rmsprop(), 2),
        (momentum, 2),
        (Optimizer::adamw_8bit(), 300),
    ];
    for (optimizer, rank) in all {
        let lora = || lora_of(rank);
        let folder = tempfile::tempdir().unwrap();
        let whole = folder.path().join("whole");
        let mut trainer = Trainer::new(lora(), settings(optimizer)).unwrap();
        train(&mut trainer, 0);
        assert_eq!(trainer.step(), 6);
        trainer.save(&whole).unwrap();
        assert_eq!(files(&whole).len(), 2, "one manifest, one file of tensors");
        for stop in 0..6 {
            let dir = folder.path().join(format!("{stop}"));
            let mut first = Trainer::new(lora(), settings(optimizer)).unwrap();
            if stop > 0 {
                train(&mut first, stop);
            }
            first.save(&dir).unwrap();
            drop(first);
            let mut second = Trainer::load(&dir, lora(), settings(optimizer)).unwrap();
            assert_eq!(second.step(), stop);
            train(&mut second, 0);
            second.save(&dir).unwrap();
            assert!(files(&whole) == files(&dir), "resumed at {stop}");
        }
    }
}

#[test]
fn every_step_can_be_saved_from_the_listener() {
    let folder = tempfile::tempdir().unwrap();
    let mut trainer = Trainer::new(lora(), settings(Optimizer::adamw())).unwrap();
    trainer
        .train_pairs(&pairs(), &Logistic(0.5), &mut |_, trainer| {
            trainer.save(folder.path())?;
            Ok(Control::Continue)
        })
        .unwrap();
    let names: Vec<String> = files(folder.path())
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(
        names,
        ["state-00000006.safetensors", "trainer.json"],
        "older tensors are removed"
    );
    let loaded = Trainer::load(folder.path(), lora(), settings(Optimizer::adamw())).unwrap();
    for (name, param) in trainer.player().unwrap().params.iter() {
        let (a, b) = (param, &loaded.player().unwrap().params[name]);
        assert_eq!(a.to_vec2::<f32>().unwrap(), b.to_vec2::<f32>().unwrap());
    }
}

/// One saved by a version that had no offloading.
#[test]
fn a_checkpoint_without_offload_inputs_is_one_with_it_off() {
    let folder = tempfile::tempdir().unwrap();
    let now = settings(Optimizer::adamw());
    let mut trainer = Trainer::new(lora(), now.clone()).unwrap();
    trainer.save(folder.path()).unwrap();
    let manifest = folder.path().join("trainer.json");
    let mut json: serde_json::Value =
        serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    let fields = json["settings"].as_object_mut().unwrap();
    assert_eq!(fields.remove("offload_inputs"), Some(false.into()));
    fs::write(&manifest, json.to_string()).unwrap();
    trainer = Trainer::load(folder.path(), lora(), now).unwrap();
    assert!(!trainer.settings().offload_inputs);
}

/// A kill between the two renames leaves new tensors beside the old manifest and its tensors.
#[test]
fn a_kill_while_saving_leaves_the_old_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (folder.path().join("old"), folder.path().join("new"));
    let mut trainer = Trainer::new(lora(), settings(Optimizer::adamw())).unwrap();
    train(&mut trainer, 2);
    trainer.save(&old).unwrap();
    train(&mut trainer, 3);
    trainer.save(&new).unwrap();
    fs::copy(
        new.join("state-00000003.safetensors"),
        old.join("state-00000003.safetensors"),
    )
    .unwrap();
    fs::write(old.join("trainer.json.tmp"), b"{\"step").unwrap();
    let mut resumed = Trainer::load(&old, lora(), settings(Optimizer::adamw())).unwrap();
    assert_eq!(resumed.step(), 2);
    train(&mut resumed, 3);
    resumed.save(&old).unwrap();
    assert!(files(&old) == files(&new));
}

#[test]
fn a_failed_save_keeps_the_old_checkpoint_and_no_scraps() {
    let folder = tempfile::tempdir().unwrap();
    let mut trainer = Trainer::new(lora(), settings(Optimizer::adamw())).unwrap();
    train(&mut trainer, 1);
    trainer.save(folder.path()).unwrap();
    let before = files(folder.path());
    train(&mut trainer, 2);
    // a folder where the tensors' temporary file should be: writing fails
    let block = folder.path().join("state-00000002.safetensors.tmp");
    fs::create_dir(&block).unwrap();
    let error = trainer.save(folder.path()).unwrap_err().to_string();
    assert!(error.contains("state-00000002"), "{error}");
    fs::remove_dir(&block).unwrap();
    assert!(files(folder.path()) == before);
    // and where the tensors themselves should be: the rename fails, the temporary file goes
    fs::create_dir(folder.path().join("state-00000002.safetensors")).unwrap();
    assert!(trainer.save(folder.path()).is_err());
    fs::remove_dir(folder.path().join("state-00000002.safetensors")).unwrap();
    assert!(files(folder.path()) == before);
}

fn load_error(dir: &Path, player: Player, settings: TrainSettings) -> String {
    Trainer::load(dir, player, settings)
        .err()
        .unwrap()
        .to_string()
}

#[test]
fn what_does_not_fit_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let own = settings(Optimizer::adamw());
    assert!(load_error(dir, lora(), own.clone()).contains("trainer.json"));
    let mut trainer = Trainer::new(lora(), own.clone()).unwrap();
    train(&mut trainer, 2);
    trainer.save(dir).unwrap();

    let error = load_error(
        dir,
        lora(),
        TrainSettings {
            learning_rate: 1e-3,
            ..own.clone()
        },
    );
    assert!(
        error.contains("learning_rate = 0.003") && error.contains("0.001"),
        "{error}"
    );
    assert!(load_error(dir, lora(), settings(Optimizer::rmsprop())).contains("optimizer"));
    let error = load_error(dir, Player::full(llama()).unwrap(), own.clone());
    assert!(error.contains("is missing"), "{error}");

    // other data, another kind of training
    let mut loaded = Trainer::load(dir, lora(), own.clone()).unwrap();
    let changes: [fn(&mut Vec<Pair>); 4] = [
        |pairs| pairs[3].real.push(1),
        |pairs| pairs[3].ref_real += 1e-9,
        |pairs| pairs.swap(2, 3),
        |pairs| {
            pairs
                .iter_mut()
                .for_each(|pair| pair.rewards = Some([1.0, 0.0]))
        },
    ];
    for change in changes {
        let mut other = pairs();
        change(&mut other);
        let error = loaded
            .train_pairs(&other, &Logistic(0.5), &mut |_, _| Ok(Control::Continue))
            .unwrap_err();
        assert!(error.to_string().contains("other data"), "{error}");
    }
    let error = loaded
        .train_pairs(&pairs(), &Logistic(0.25), &mut |_, _| Ok(Control::Continue))
        .unwrap_err();
    assert!(
        error.to_string().contains("(slope=0.5)") && error.to_string().contains("(slope=0.25)"),
        "{error}"
    );
    let example = Example {
        prompt: &[1],
        response: &[1],
        place: &"x:1",
    };
    assert!(
        loaded
            .train_sft(&[example], &mut |_, _| Ok(Control::Continue))
            .is_err()
    );
    train(&mut loaded, 3);

    let tensors = dir.join("state-00000002.safetensors");
    let bytes = fs::read(&tensors).unwrap();
    fs::write(&tensors, &bytes[..bytes.len() - 7]).unwrap();
    assert!(load_error(dir, lora(), own.clone()).contains("state-00000002.safetensors"));
    fs::write(dir.join("trainer.json"), b"{").unwrap();
    assert!(load_error(dir, lora(), own).contains("trainer.json"));
}
