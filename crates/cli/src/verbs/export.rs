//! `randori export`: a player for the tools people deploy with, and how much of what it learnt survives the format.

use std::path::Path;

use anyhow::Result;
use randori_engine::weights::Dtype;

use crate::args::{Format, Who};
use crate::outbox;
use crate::session::Session;

/// Writes `out`.
pub fn run(who: &Who, to: Format, out: &Path) -> Result<()> {
    outbox::refuse_taken(out)?;
    let session = Session::open(who)?;
    let player = session.start(session.recipe.run.seed)?;
    let dtype = match to {
        Format::Peft => {
            outbox::adapter(&session, &player, out)?;
            println!(
                "{}: a PEFT adapter for {}",
                out.display(),
                session.base_name
            );
            return Ok(());
        }
        Format::Bf16 => Dtype::Bf16,
        Format::F16 => Dtype::F16,
        Format::F32 => Dtype::F32,
    };
    let report = outbox::model(&session, &player, dtype, out)?;
    println!(
        "{}: {} tensors, {:.1} MB",
        out.display(),
        report.tensors,
        report.bytes as f64 / 1e6
    );
    match report.survived {
        None => println!("the player changed nothing: this is the base"),
        Some(s) => println!(
            "of what was learnt {:.1} % survives the format (rounding adds noise of {:.1} % of it, {:.1} % of the changed weights come out as the base's)",
            100.0 * s.kept,
            100.0 * s.noise,
            100.0 * s.unchanged
        ),
    }
    Ok(())
}
