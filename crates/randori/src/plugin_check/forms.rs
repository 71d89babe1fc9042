//! What is written of an adapted player, read back, against the player itself.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use randori_engine::Player;
use randori_engine::weights::{self, Dtype, LoadOptions, Source};
use randori_export::{FolderOptions, GgufLoraOptions, GgufOptions, GgufQuant, InMemory};
use randori_host::Host;
use randori_lora::peft;

use super::row::Row;
use super::subject::{APART, Subject, apart};

/// Writes each form into `scratch` and compares; `progress` hears of forms done, and how many there
/// are.
pub(super) fn check(
    host: &Host,
    subject: &Subject,
    player: &Player,
    scratch: &Path,
    progress: &mut dyn FnMut(usize, usize),
) -> Vec<Row> {
    let forms = Forms {
        host,
        subject,
        player,
        scratch,
    };
    let checks: [(&'static str, fn(&Forms) -> Result<Row>); 4] = [
        ("PEFT adapter", |forms| forms.peft()),
        ("merged folder", |forms| forms.folder()),
        ("GGUF", |forms| forms.gguf()),
        ("GGUF adapter", |forms| forms.gguf_adapter()),
    ];
    let mut rows = Vec::new();
    for (done, (what, form)) in checks.iter().enumerate() {
        progress(done, checks.len());
        rows.push(Row::checked(what, form(&forms)));
    }
    rows
}

struct Forms<'a> {
    host: &'a Host,
    subject: &'a Subject,
    player: &'a Player,
    scratch: &'a Path,
}

impl Forms<'_> {
    fn merged(&self) -> InMemory<'_> {
        InMemory {
            player: self.player,
            onto: None,
        }
    }

    /// The row of a player that was read back.
    fn row(&self, what: &'static str, read: &Player, allowed: f64) -> Result<Row> {
        let apart = apart(
            &self.subject.logps(self.player)?,
            &self.subject.logps(read)?,
        );
        let figures = match apart == 0.0 {
            true => "read back, the same to the bit".into(),
            false => format!("read back, {apart:.1e} apart (up to {allowed:.0e})"),
        };
        Ok(Row::of(what, apart <= allowed, figures))
    }

    fn peft(&self) -> Result<Row> {
        let dir = self.scratch.join("peft");
        let spec = self
            .player
            .lora
            .as_deref()
            .context("the player has no adapter")?;
        peft::save(&dir, spec, &self.player.params, "model")?;
        let (spec, params) = peft::load(&dir)?;
        let read = Player::with_adapter(self.player.base.clone(), spec, params)?;
        self.row("PEFT adapter", &read, 0.0)
    }

    fn folder(&self) -> Result<Row> {
        let dir = self.scratch.join("folder");
        let options = FolderOptions {
            dtype: Dtype::F32,
            ..FolderOptions::default()
        };
        randori_export::folder(
            &self.merged(),
            &[],
            &dir,
            &options,
            &mut |_, _, _| Ok(()),
            &mut |_, _| (),
        )?;
        let read = self.open(Source::Folder(dir), Some(&self.subject.name))?;
        self.row("merged folder", &read, APART)
    }

    /// A form that cannot express this model says so, which is no fault of the architecture's.
    fn gguf(&self) -> Result<Row> {
        let file = self.scratch.join("model.gguf");
        let options = GgufOptions {
            quant: GgufQuant::F32,
            replace: false,
            name: self.subject.name.clone(),
        };
        let written = randori_export::gguf(
            &self.merged(),
            None,
            &file,
            &options,
            &mut |_, _, _| Ok(()),
            &mut |_, _| (),
        );
        if let Err(e) = written {
            return Ok(Row::open("GGUF", format!("not written: {e}")));
        }
        let read = self.open(Source::Gguf(file), None)?;
        self.row("GGUF", &read, APART)
    }

    fn gguf_adapter(&self) -> Result<Row> {
        let file = self.scratch.join("adapter.gguf");
        let options = GgufLoraOptions {
            replace: false,
            name: self.subject.name.clone(),
        };
        let spec = self
            .player
            .lora
            .as_deref()
            .context("the player has no adapter")?;
        let written = randori_export::gguf_lora(
            &self.player.params,
            &self.player.base.config,
            &self.player.base.arch.family(),
            &|projection| spec.scale_of(projection),
            &file,
            &options,
        );
        Ok(match written {
            Ok(report) => Row::open(
                "GGUF adapter",
                format!("written, {} tensors", report.tensors),
            ),
            Err(e) => Row::open("GGUF adapter", format!("not written: {e}")),
        })
    }

    /// The model at `source`, run by the architecture `name` or by the one that it names itself.
    fn open(&self, source: Source, name: Option<&str>) -> Result<Player> {
        let checkpoint = weights::open(source, self.host.families()?)?;
        let config = checkpoint.config();
        let own = config["model_type"].as_str().map(str::to_owned);
        let name = name.map(str::to_owned).or(own);
        let name = name.context("the file names no architecture")?;
        let arch = self.host.architecture(&name, &config.to_string())?;
        let base = checkpoint.load(arch, &LoadOptions::default(), &mut |_, _| ())?;
        Ok(Player::bare(Arc::new(base)))
    }
}
