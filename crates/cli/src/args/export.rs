//! What `randori export` is asked for, and which options go with which format.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::ValueEnum;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use randori::{Dtype as Numbers, Export, GgufQuant, Onto as Base, Target, Which, bytes};

use super::Who;

/// The names of GGUF's mixtures, in any case; llama.cpp's shorter ones are not listed.
fn quants() -> PossibleValuesParser {
    let names = GgufQuant::NAMES.map(PossibleValue::new).into_iter();
    let short = GgufQuant::ALIASES.map(|(name, _)| PossibleValue::new(name).hide(true));
    PossibleValuesParser::new(names.chain(short))
}

/// The default largest weight file.
const SHARD_BYTES: u64 = 5_000_000_000;

/// The command line of `randori export`.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    #[command(flatten)]
    pub who: Who,
    /// Which player of a run folder: iteration T, the one after training T (0, 1, …), or `start`,
    /// the one before the first; the last one where it is not given
    #[arg(long, value_name = "T")]
    pub iteration: Option<Which>,
    /// What to write
    #[arg(long, value_enum, ignore_case = true, default_value = "hf")]
    pub to: Format,
    /// Numbers of a model folder (hf; bnb: of what is not quantised); bf16 where it is not given
    #[arg(long, value_enum, ignore_case = true)]
    pub dtype: Option<Dtype>,
    /// Blocks of a GGUF file, in llama.cpp's mixtures; q8_0 where it is not given
    #[arg(long, ignore_case = true, value_parser = quants().try_map(|q| q.parse::<GgufQuant>()))]
    pub quant: Option<GgufQuant>,
    /// Which base receives the update: the one it was trained on (dequantised, or in the recipe's
    /// model.dtype), or the files' own values
    #[arg(long, value_enum, ignore_case = true)]
    pub onto: Option<Onto>,
    /// Largest weight file of a model folder: 5GB, 500MB, 2GiB, …
    #[arg(long, value_name = "SIZE", value_parser = bytes::parse)]
    pub max_shard_size: Option<u64>,
    /// Rounds to bf16 up or down at random, so that small updates survive on average
    #[arg(long)]
    pub stochastic_rounding: bool,
    /// Seed of the stochastic rounding; 0 where it is not given
    #[arg(long)]
    pub seed: Option<u64>,
    /// Folder (gguf, gguf-lora: file) to write
    #[arg(long, short)]
    pub out: PathBuf,
}

/// What a player is written as.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A PEFT adapter folder
    Peft,
    /// A Hugging Face model folder, merged
    Hf,
    /// A GGUF model file, merged
    Gguf,
    /// A GGUF adapter file
    GgufLora,
    /// A Hugging Face folder in bitsandbytes' 4 bits, merged
    Bnb,
}

/// Numbers of a model folder.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    F32,
    F16,
    Bf16,
}

/// Which base receives the update.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Onto {
    /// The values it was trained on
    Dequantised,
    /// The files' own values
    Original,
}

impl Args {
    /// What is to be written, if the options go together.
    pub fn export(self) -> Result<Export> {
        let target = self.target()?;
        Ok(Export {
            iteration: self.iteration,
            onto: match self.onto {
                Some(Onto::Original) => Base::Original,
                Some(Onto::Dequantised) | None => Base::Dequantised,
            },
            target,
            request: self.who.request(),
            out: self.out,
        })
    }

    /// The target, if the options go together.
    fn target(&self) -> Result<Target> {
        self.refuse_idle()?;
        let dtype = match self.dtype {
            Some(Dtype::F32) => Numbers::F32,
            Some(Dtype::F16) => Numbers::F16,
            Some(Dtype::Bf16) | None => Numbers::Bf16,
        };
        if self.stochastic_rounding && dtype != Numbers::Bf16 {
            bail!(
                "--stochastic-rounding is for --dtype bf16: f16 and f32 keep small updates by themselves"
            );
        }
        if self.seed.is_some() && !self.stochastic_rounding {
            bail!("--seed goes with --stochastic-rounding: nothing else in an export is random");
        }
        let shard_bytes = self.max_shard_size.unwrap_or(SHARD_BYTES);
        Ok(match self.to {
            Format::Peft => Target::Peft,
            Format::Hf => Target::Hf {
                dtype,
                stochastic: self.stochastic_rounding.then(|| self.seed.unwrap_or(0)),
                shard_bytes,
            },
            Format::Gguf => Target::Gguf {
                quant: self.quant.unwrap_or(GgufQuant::Q8_0),
            },
            Format::GgufLora => Target::GgufLora,
            Format::Bnb => Target::Bnb { dtype, shard_bytes },
        })
    }

    /// An option that would change nothing is a misunderstanding.
    fn refuse_idle(&self) -> Result<()> {
        use Format::{Bnb, Gguf, Hf};
        let given: [(&str, bool, &[Format]); 5] = [
            ("--dtype", self.dtype.is_some(), &[Hf, Bnb]),
            ("--quant", self.quant.is_some(), &[Gguf]),
            ("--onto", self.onto.is_some(), &[Hf, Gguf, Bnb]),
            (
                "--max-shard-size",
                self.max_shard_size.is_some(),
                &[Hf, Bnb],
            ),
            ("--stochastic-rounding", self.stochastic_rounding, &[Hf]),
        ];
        for (option, is_given, formats) in given {
            if is_given && !formats.contains(&self.to) {
                let fitting: Vec<String> = formats.iter().map(|f| format!("--to {f}")).collect();
                bail!(
                    "{option} goes with {}, not with --to {}",
                    fitting.join(" and "),
                    self.to
                );
            }
        }
        Ok(())
    }
}

/// As it is spelt on the command line.
macro_rules! spelt {
    ($($name:ident)*) => { $(
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                let value = self.to_possible_value();
                f.write_str(value.as_ref().map_or("", |v| v.get_name()))
            }
        }
    )* };
}
spelt!(Format Onto);

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn target(text: &str) -> Result<Target, String> {
        let words = format!("export r.toml --out o {text}");
        let line = Line::try_parse_from(words.split_whitespace()).map_err(|e| e.to_string())?;
        line.args.target().map_err(|e| e.to_string())
    }

    #[test]
    fn options_go_with_their_formats() {
        let hf = |dtype, stochastic| Target::Hf {
            dtype,
            stochastic,
            shard_bytes: SHARD_BYTES,
        };
        assert_eq!(target(""), Ok(hf(Numbers::Bf16, None)));
        assert_eq!(
            target("--stochastic-rounding --seed 7"),
            Ok(hf(Numbers::Bf16, Some(7)))
        );
        assert_eq!(
            target("--to gguf --quant q4_k --onto original"),
            Ok(Target::Gguf {
                quant: GgufQuant::Q4KM
            })
        );
        // names in any case
        assert_eq!(
            target("--to GGUF --quant Q4_K --onto ORIGINAL"),
            target("--to gguf --quant q4_k --onto original")
        );
        assert_eq!(target("--to Hf --dtype BF16"), Ok(hf(Numbers::Bf16, None)));
        for (text, why) in [
            (
                "--to gguf --dtype f32",
                "--dtype goes with --to hf and --to bnb, not with --to gguf",
            ),
            (
                "--quant q8_0",
                "--quant goes with --to gguf, not with --to hf",
            ),
            ("--to peft --onto original", "--onto goes with"),
            (
                "--to gguf-lora --max-shard-size 1GB",
                "--max-shard-size goes with",
            ),
            (
                "--to bnb --stochastic-rounding",
                "--stochastic-rounding goes with --to hf",
            ),
            ("--dtype f16 --stochastic-rounding", "is for --dtype bf16"),
            ("--seed 1", "--seed goes with --stochastic-rounding"),
            ("--iteration last", "counted from 0, or `start`"),
            (
                "--to bf16",
                "possible values: peft, hf, gguf, gguf-lora, bnb",
            ),
        ] {
            let e = target(text).unwrap_err();
            assert!(e.contains(why), "{text}: {e}");
        }
    }
}
