//! The fidelity report for people and for programs: a table, a warning with the better choice,
//! `fidelity.json`.

use anyhow::Result;
use randori_engine::{Inputs, Packed, weights::Stream};
use randori_export::{DtypeFidelity, FidelityReport, GgufQuant, KEPT, NOISE, Survival};
use serde_json::{Value, json};

use crate::artefacts::Learnt;
use crate::corpus;
use crate::one_line::one_line;
use crate::session::Setting;
use crate::watch::Watch;

/// Training examples whose activations are taken, and rows kept of each projection's.
const EXAMPLES: usize = 4;
const ROWS: usize = 32;
/// Lines of the printed table.
const LINES: usize = 8;
/// What the table's columns say of the update.
const TERMS: &str = "kept: what is left of it; noise: what rounding adds, as a share of it; unchanged: entries that come out as the base's";
/// Noise, as a share of the weights, that hardly moves a model: q8_0 adds half of it.
const SLIGHT: f64 = 0.02;

/// A report with what it is about.
pub struct Measured {
    /// `bf16`, `q4_k`, …
    pub form: String,
    /// What was measured.
    pub report: FidelityReport,
    /// Why there is no column of outputs.
    pub without_outputs: Option<String>,
    /// What else could be written.
    pub instead: Instead,
}

/// What could be written instead of a form, where that loses what was learnt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instead {
    /// What would lose nothing.
    pub lossless: Option<&'static str>,
    /// Other numbers, smallest first.
    pub dtypes: &'static [&'static str],
}

impl Instead {
    /// Of a model folder: its other numbers.
    pub const FOLDER: Instead = Instead {
        lossless: None,
        dtypes: &["bf16", "f16", "f32"],
    };

    /// Of a GGUF file, by its blocks.
    pub fn of_gguf(quant: GgufQuant) -> Instead {
        Instead {
            lossless: None,
            dtypes: match quant {
                GgufQuant::F32 => &[],
                GgufQuant::F16 => &["f32"],
                GgufQuant::Bf16 | GgufQuant::Q8_0 => &["f16", "f32"],
                _ => &["q8_0", "f16", "f32"],
            },
        }
    }

    /// The same with a form that loses nothing, if there is one for this player.
    pub fn or(self, lossless: Option<&'static str>) -> Instead {
        Instead { lossless, ..self }
    }
}

/// Inputs of the projections on a few of the recipe's own examples, prompt and response; else why
/// there are none.
pub fn inputs(setting: &Setting, stream: &Stream, learnt: &Learnt) -> Result<Inputs, String> {
    let examples = corpus::few(
        &setting.recipe,
        &setting.tokenizer,
        setting.bounds,
        EXAMPLES,
    )
    .map_err(|e| one_line(&e))?;
    if examples.is_empty() {
        return Err("the recipe's first examples are all dropped".into());
    }
    let mut plan = Packed::default();
    for e in &examples {
        plan.push(&e.prompt, &[&e.response]);
    }
    stream
        .inputs(learnt.lora.clone(), learnt.params.clone(), &plan, ROWS)
        .map_err(|e| one_line(&e.into()))
}

impl Measured {
    /// One line on the whole update; none where there is no update.
    pub fn summary(&self) -> Option<String> {
        let total = self.report.total?;
        let mut text = format!(
            "{}: {} of the update survives (|dW|/|W| {:.1e}, rounding noise {}, {} of the changed entries come out as the base's",
            self.form,
            percent(total.kept),
            total.size,
            percent(total.noise),
            percent(total.unchanged)
        );
        if let Some(output) = total.output {
            text += &format!(", outputs off by {} of their change", percent(output));
        }
        Some(text + ")")
    }

    /// What is wrong with this choice and what is better, measured.
    pub fn warning(&self) -> Option<String> {
        self.report.total.filter(Survival::is_lost)?;
        self.sentence()
    }

    /// What survives, and what would be better; none where there is no update.
    fn sentence(&self) -> Option<String> {
        let total = self.report.total?;
        let (form, kept, noise) = (&self.form, percent(total.kept), percent(total.noise));
        let mut text = if !total.is_lost() {
            format!("{form} keeps {kept} of what was learnt, with noise of {noise} of it")
        } else if total.kept < KEPT {
            let times = times(total.noise);
            format!("{form} keeps only {kept} of what was learnt, under rounding noise of {times}")
        } else {
            format!(
                "{form} keeps {kept} of what was learnt, under random rounding noise of {} ({} of the weights, about what {form} adds to any model)",
                times(total.noise),
                percent(total.noise * total.size)
            )
        };
        if let Some(lossless) = self.instead.lossless {
            text += &format!("; {lossless} loses nothing");
        }
        // `bf16, stochastic` is bf16, too
        let own = form.split(',').next().unwrap_or(form);
        let mut others = self.instead.dtypes.to_vec();
        others.retain(|other| *other != own);
        let better = self.report.first_that_holds(&others);
        let noise_of = |other: &DtypeFidelity| other.noise.unwrap_or(0.0);
        match better.filter(|other| total.is_lost() || noise_of(other) < total.noise) {
            Some(better) => {
                text += &format!(
                    "; {} would keep {} with noise of {}",
                    better.dtype,
                    percent(better.kept),
                    percent(noise_of(better))
                );
            }
            None if total.is_lost() => text += "; f32 is what keeps it",
            None => {}
        }
        Some(text)
    }

    /// What another base costs.
    pub fn moved(&self) -> Option<String> {
        let moved = self.report.total?.moved.filter(|m| *m > 0.0)?;
        let advice = if moved > NOISE {
            ": merge onto the dequantised base (--onto dequantised) unless the original's own quality is worth more"
        } else {
            ""
        };
        Some(format!(
            "merged onto the original base rather than the one it was trained on: that alone moves the outputs by {} of the update's own change{advice}",
            percent(moved)
        ))
    }

    /// The table: the noisiest modules, then all of them.
    pub fn table(&self) -> String {
        let Some(total) = self.report.total else {
            return "the player changed nothing: this is the base\n".into();
        };
        let shown = &self.report.modules[..LINES.min(self.report.modules.len())];
        let longest = shown.iter().map(|m| m.name.len()).max().unwrap_or(0);
        let width = longest.max("all of 000 modules".len());
        let mut out = format!(
            "{:width$}  {:>8}  {:>8}  {:>8}  {:>9}",
            "module", "|dW|/|W|", "kept", "noise", "unchanged"
        );
        let (outputs, moved) = (total.output.is_some(), self.moved().is_some());
        if outputs {
            out += &format!("  {:>12}", "output error");
        }
        if moved {
            out += &format!("  {:>10}", "other base");
        }
        out.push('\n');
        let mut line = |name: &str, s: &Survival| {
            out += &format!(
                "{name:width$}  {:>8.1e}  {:>8}  {:>8}  {:>9}",
                s.size,
                percent(s.kept),
                percent(s.noise),
                percent(s.unchanged)
            );
            let optional = |v: Option<f64>| v.map_or("-".into(), percent);
            if outputs {
                out += &format!("  {:>12}", optional(s.output));
            }
            if moved {
                out += &format!("  {:>10}", optional(s.moved));
            }
            out.push('\n');
        };
        for m in shown {
            line(&m.name, &m.survival);
        }
        line(
            &format!("all of {} modules", self.report.modules.len()),
            &total,
        );
        out
    }

    /// `fidelity.json`.
    pub fn json(&self) -> Value {
        json!({
            "format": self.form,
            "total": self.report.total,
            "without_outputs": self.without_outputs,
            "warning": self.warning(),
            "choices": self.report.choices,
            "modules": self.report.modules,
        })
    }

    /// The same as a file's text.
    pub fn text(&self) -> String {
        format!("{:#}\n", self.json())
    }

    /// Says in one sentence what survives and what would be better: a warning where a part of it is
    /// lost, or where noise moves the weights by more than a little.
    pub fn tell_sentence(&self, watch: &dyn Watch) {
        let Some((total, sentence)) = self.report.total.zip(self.sentence()) else {
            return; // the table says that nothing was changed
        };
        match total.is_lost() {
            false => result!(watch, "{sentence}"),
            true if is_slight(&total) => watch.note(sentence),
            true => watch.warn(sentence),
        }
    }

    /// Says all but the sentence.
    pub fn tell_rest(&self, watch: &dyn Watch) {
        watch.result(self.table());
        if self.report.total.is_none() {
            return;
        }
        result!(watch, "{TERMS}");
        if let Some(why) = &self.without_outputs {
            result!(
                watch,
                "no output errors, since the recipe's data could not be used: {why}"
            );
        }
        if let Some(moved) = self.moved() {
            result!(watch, "{moved}");
        }
    }
}

/// Whether all that was learnt is there, under noise that is little for the weights.
fn is_slight(total: &Survival) -> bool {
    total.kept >= KEPT && total.noise * total.size <= SLIGHT
}

/// `3.5 times its size`, `80.0 % of its size`.
fn times(noise: f64) -> String {
    match noise < 1.0 {
        true => format!("{} of its size", percent(noise)),
        false => format!("{noise:.1} times its size"),
    }
}

/// 53.2 %; what is ten times the whole and more as a factor.
fn percent(share: f64) -> String {
    match share.abs() < 10.0 {
        true => format!("{:.1} %", 100.0 * share),
        false => format!("{share:.0} x"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::watch::{Progress, Silent};

    /// Remembers how things were said.
    #[derive(Default)]
    struct Heard(Mutex<Vec<(&'static str, String)>>);

    impl Heard {
        fn hear(&self, how: &'static str, text: String) {
            self.0.lock().unwrap().push((how, text));
        }
    }

    impl Watch for Heard {
        fn say(&self, _: String) {}
        fn note(&self, line: String) {
            self.hear("note", line);
        }
        fn warn(&self, line: String) {
            self.hear("warning", line);
        }
        fn result(&self, text: String) {
            self.hear("result", text);
        }
        fn stage(&self, _: &str, _: usize, _: &'static str) -> Box<dyn Progress> {
            Box::new(Silent)
        }
    }

    fn said(form: &str, kept: f64, noise: f64, size: f64) -> (&'static str, String) {
        let total = Survival {
            size,
            kept,
            noise,
            unchanged: 0.0,
            output: None,
            moved: None,
        };
        let measured = Measured {
            form: form.into(),
            report: FidelityReport {
                total: Some(total),
                choices: Vec::new(),
                modules: Vec::new(),
            },
            without_outputs: None,
            instead: Instead::FOLDER,
        };
        let heard = Heard::default();
        measured.tell_sentence(&heard);
        heard.0.into_inner().unwrap().remove(0)
    }

    #[test]
    fn what_would_be_better_is_another_form() {
        let choice = |dtype: &str, noise| DtypeFidelity {
            dtype: dtype.into(),
            kept: 1.0,
            noise: Some(noise),
        };
        for form in ["bf16", "bf16, stochastic"] {
            let measured = Measured {
                form: form.into(),
                report: FidelityReport {
                    total: Some(Survival {
                        size: 1e-2,
                        kept: 1.0,
                        noise: 0.0411,
                        unchanged: 0.0,
                        output: None,
                        moved: None,
                    }),
                    choices: vec![choice("bf16", 0.041), choice("f16", 0.005)],
                    modules: Vec::new(),
                },
                without_outputs: None,
                instead: Instead::FOLDER,
            };
            let said = measured.sentence().unwrap();
            let better = "noise of 4.1 % of it; f16 would keep 100.0 % with noise of 0.5 %";
            assert!(said.ends_with(better), "{said}");
        }
    }

    /// Who loses more gets no milder words.
    #[test]
    fn what_is_lost_is_said_by_how_much_it_is() {
        let (how, text) = said("f16", 1.0, 0.02, 1e-2);
        assert_eq!(how, "result", "{text}");
        let (how, text) = said("q8_0", 1.0, 3.527, 2e-3);
        assert_eq!(how, "note");
        let first = "q8_0 keeps 100.0 % of what was learnt, under random rounding noise of 3.5 times its size (0.7 % of the weights, about what q8_0 adds to any model)";
        assert!(text.starts_with(first), "{text}");
        let (how, text) = said("q4_k", 0.87, 45.0, 2e-3);
        assert_eq!(how, "warning");
        let first = "q4_k keeps only 87.0 % of what was learnt, under rounding noise of 45.0 times its size";
        assert!(text.starts_with(first), "{text}");
        assert_eq!(said("q4_0", 1.0, 45.0, 2e-3).0, "warning");
    }
}
