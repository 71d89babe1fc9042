//! What is written and measured, with what stands beside it: card and report of a folder or a file.

use std::path::Path;

use anyhow::{Context, Result};
use randori_export::{OnTensor, Tensors};
use randori_store::{OutFiles, OutFolder};

use super::fidelity::{Instead, Measured};
use super::player::{Player, Progress};
use crate::card::{self, Form};

/// What a GGUF's report and Modelfile end in.
pub const FIDELITY: &str = "fidelity.json";
/// See [`FIDELITY`].
pub const MODELFILE: &str = "Modelfile";

impl Player {
    /// A folder, with its card and report.
    pub fn folder(
        &self,
        to: &OutFolder,
        out: &Path,
        kind: Form,
        form: &str,
        instead: Instead,
        write: impl FnOnce(&dyn Tensors, &Path, &mut OnTensor, Progress) -> Result<()>,
    ) -> Result<Measured> {
        let mut measured = None;
        to.write(|fresh| {
            let m = self.measured(form, instead, |tensors, each, progress| {
                write(tensors, fresh, each, progress)
            })?;
            let how = format!("A Hugging Face folder in {form}, {}", self.merged_onto());
            let card = self.card(kind, out, how, Some(&m))?;
            std::fs::write(fresh.join(card::FILE), card)?;
            self.learnt.provenance.write(fresh)?;
            std::fs::write(fresh.join("fidelity.json"), m.text())?;
            let modelfile = randori_data::modelfile(&self.setting.tokenizer, ".", None)?;
            std::fs::write(fresh.join("Modelfile"), modelfile)?;
            measured = Some(m);
            Ok(())
        })?;
        measured.context("nothing was written")
    }

    /// A file, its report as NAME.fidelity.json, and its card as NAME.README.md.
    pub fn file(
        &self,
        to: &mut OutFiles,
        out: &Path,
        form: &str,
        instead: Instead,
        write: impl FnOnce(&dyn Tensors, &Path, &mut OnTensor, Progress) -> Result<()>,
    ) -> Result<Measured> {
        let mut measured = None;
        to.write(out, |fresh| {
            measured = Some(self.measured(form, instead, |tensors, each, progress| {
                write(tensors, fresh, each, progress)
            })?);
            Ok(())
        })?;
        let measured = measured.context("nothing was written")?;
        let report = out.with_extension(FIDELITY);
        to.write(&report, |fresh| Ok(std::fs::write(fresh, measured.text())?))?;
        let how = format!("A GGUF file in {form}, {}", self.merged_onto());
        let card = self.card(Form::Gguf, out, how, Some(&measured))?;
        self.card_beside(to, out, &card)?;
        Ok(measured)
    }

    /// A file's card.
    pub fn card_beside(&self, to: &mut OutFiles, out: &Path, card: &str) -> Result<()> {
        let path = out.with_extension(card::FILE);
        Ok(to.write(&path, |fresh| Ok(std::fs::write(fresh, card)?))?)
    }

    /// Ollama's Modelfile beside `out`.
    pub fn modelfile(
        &self,
        to: &mut OutFiles,
        out: &Path,
        from: &str,
        adapter: Option<&str>,
    ) -> Result<()> {
        let text = randori_data::modelfile(&self.setting.tokenizer, from, adapter)?;
        let path = out.with_extension(MODELFILE);
        to.write(&path, |fresh| Ok(std::fs::write(fresh, text)?))?;
        result!(
            self.setting.watch,
            "{}: for Ollama (ollama create NAME -f {0})",
            path.display()
        );
        Ok(())
    }
}
