//! Provenance: which trainings made a player, in order. It is kept as `randori.json` in the folder
//! of what the player has learnt, so that it goes wherever that goes.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The file's name, beside the weights.
pub const FILE: &str = "randori.json";
/// The file's format; a newer one may say what is not known here.
const FORMAT: u64 = 1;

/// What made a player, the oldest first; nothing made the base itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Provenance(pub Vec<Origin>);

/// A step on the way to a player.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Origin {
    /// Not recorded: an adapter of another program, or of a version before this record.
    Unknown,
    /// Supervised fine-tuning.
    Sft(Training),
    /// An iteration of the game.
    Game(Training),
    /// Training on a file of pairs (`randori train`).
    Pairs(Training),
    /// Several players, added up.
    Sum {
        /// What made each.
        of: Vec<Vec<Origin>>,
    },
}

/// A training: what it was about, and how it was done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Training {
    /// Version of Randori.
    pub randori: String,
    /// The run's name.
    pub run: String,
    /// The game's seed.
    pub seed: u64,
    /// The iteration whose settings it had; none in supervised fine-tuning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iteration: Option<usize>,
    /// The base's name.
    pub base: String,
    /// The base's files.
    pub base_files: Vec<Input>,
    /// The files of data that it was trained on.
    pub data: Vec<Input>,
    /// Examples, or pairs of responses, in an epoch.
    pub examples: usize,
    /// The loss.
    pub loss: String,
    /// The loss's options, those left at their defaults among them.
    pub loss_options: Map<String, Value>,
    /// The learning rate at its highest.
    pub learning_rate: f64,
    /// Passes over the examples.
    pub epochs: usize,
    /// Steps after which it ended at the latest, if there was such a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<usize>,
}

/// Something that was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// Its name, without the folders of the machine on which it lay.
    pub name: String,
    /// The SHA-256 of its content; a hub's commit or the seed of random weights where the name says
    /// so.
    pub id: String,
}

/// The file as it stands.
#[derive(Serialize, Deserialize)]
struct File {
    format: u64,
    trainings: Vec<Origin>,
}

impl Provenance {
    /// Reads the file in a player's folder; without one, nobody knows.
    ///
    /// # Errors
    /// A file that is none of ours, or of a newer version.
    pub fn read(folder: &Path) -> Result<Provenance> {
        let path = folder.join(FILE);
        if !path.exists() {
            return Ok(Provenance(vec![Origin::Unknown]));
        }
        let read = || {
            let whole: Value = randori_store::read_json(&path)?;
            let format = &whole["format"];
            ensure!(
                format.as_u64() == Some(FORMAT),
                "{}: format must be {FORMAT}, got {format}",
                path.display()
            );
            anyhow::Ok(randori_store::read_json::<File>(&path)?)
        };
        let file = read().context(
            "the record of a player's trainings cannot be read; without it they count as unknown",
        )?;
        Ok(Provenance(file.trainings))
    }

    /// Writes the file into a folder that is there.
    ///
    /// # Errors
    /// What the disk answers.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let file = File {
            format: FORMAT,
            trainings: self.0.clone(),
        };
        let mut text = serde_json::to_vec_pretty(&file)?;
        text.push(b'\n');
        let path = folder.join(FILE);
        std::fs::write(&path, text).with_context(|| path.display().to_string())
    }

    /// What made the sum of such players.
    pub fn sum(of: Vec<Provenance>) -> Provenance {
        let of = of.into_iter().map(|one| one.0).collect();
        Provenance(vec![Origin::Sum { of }])
    }

    /// The same with one more training.
    pub fn and(&self, last: Origin) -> Provenance {
        let mut all = self.0.clone();
        all.push(last);
        Provenance(all)
    }

    /// All trainings, those of a sum's players one after the other.
    pub fn flat(&self) -> Vec<&Origin> {
        fn add<'a>(origins: &'a [Origin], all: &mut Vec<&'a Origin>) {
            for origin in origins {
                match origin {
                    Origin::Sum { of } => of.iter().for_each(|one| add(one, all)),
                    one => all.push(one),
                }
            }
        }
        let mut all = Vec::new();
        add(&self.0, &mut all);
        all
    }
}

impl Origin {
    /// The training, where it is recorded and one.
    pub fn training(&self) -> Option<&Training> {
        match self {
            Origin::Sft(training) | Origin::Game(training) | Origin::Pairs(training) => {
                Some(training)
            }
            Origin::Unknown | Origin::Sum { .. } => None,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    pub fn training() -> Training {
        Training {
            randori: "0.1.0".into(),
            run: "r".into(),
            seed: u64::MAX,
            iteration: Some(1),
            base: "org/name".into(),
            base_files: vec![Input {
                name: "commit".into(),
                id: "0123".into(),
            }],
            data: vec![Input {
                name: "train.jsonl".into(),
                id: "ab12".into(),
            }],
            examples: 57,
            loss: "spin".into(),
            loss_options: json!({"beta": 0.1}).as_object().cloned().unwrap(),
            learning_rate: 1e-3,
            epochs: 2,
            max_steps: None,
        }
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(
            Provenance::read(folder.path()).unwrap(),
            Provenance(vec![Origin::Unknown])
        );
        let sft = Training {
            iteration: None,
            max_steps: Some(7),
            ..training()
        };
        let one = Provenance::default().and(Origin::Sft(sft));
        let sum = Provenance::sum(vec![one.clone(), Provenance(vec![Origin::Unknown])]);
        for made in [
            Provenance::default(),
            one,
            sum.and(Origin::Game(training())),
            sum.and(Origin::Pairs(training())),
        ] {
            made.write(folder.path()).unwrap();
            assert_eq!(Provenance::read(folder.path()).unwrap(), made);
        }
        let last = Provenance::read(folder.path()).unwrap();
        assert_eq!(last.flat().len(), 3);
        let text = std::fs::read_to_string(folder.path().join(FILE)).unwrap();
        let file: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(file["trainings"][0]["kind"], "sum");
        assert_eq!(file["trainings"][0]["of"][0][0]["kind"], "sft");
        assert_eq!(file["trainings"][0]["of"][1][0]["kind"], "unknown");
        assert_eq!(file["trainings"][1]["loss_options"]["beta"], 0.1);
    }

    #[test]
    fn what_is_no_record_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        for (text, why) in [
            ("{\"format\": 2, \"trainings\": []}", "must be 1, got 2"),
            ("[]", "must be 1, got null"),
            ("{\"format\": 1}", "missing field `trainings`"),
            (
                "{\"format\": 1, \"trainings\": [{\"kind\": \"x\"}]}",
                "unknown variant `x`",
            ),
            ("{", "randori.json:1"),
        ] {
            std::fs::write(folder.path().join(FILE), text).unwrap();
            let e = Provenance::read(folder.path()).unwrap_err();
            let said = crate::one_line(&e);
            assert!(said.contains(why) && said.contains(FILE), "{text}: {said}");
        }
    }
}
