//! What `randori chat` is asked for.

use clap::value_parser;
use randori::{Request, Talk, Which};

use super::Who;

/// The command line of `randori chat`.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    #[command(flatten)]
    who: Who,
    /// A system message
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Which player of a run folder: iteration T, the one after training T (0, 1, …), or `start`,
    /// the one before the first; the last one where it is not given
    #[arg(long, value_name = "T")]
    iteration: Option<Which>,
    /// A second player of the run folder, who answers the same messages beside the first
    #[arg(long, value_name = "T")]
    beside: Option<Which>,
    /// Draws answers at this temperature; at 0, and where neither this nor --top-p is given, they
    /// are the most likely ones
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    temp: Option<f64>,
    /// Draws answers from the likeliest tokens that together have this probability
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    top_p: Option<f64>,
    /// Most tokens of an answer; generate.max_new_tokens of the recipe where it is not given
    #[arg(long, value_name = "COUNT", value_parser = value_parser!(u32).range(1..))]
    max_tokens: Option<u32>,
    /// Answers this message and ends: the answer alone on standard output
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
}

impl Args {
    /// With whom, how, and the one message if there is no more.
    pub fn asked(self) -> (Request, Talk, Option<String>) {
        let talk = Talk {
            system: self.system,
            iteration: self.iteration,
            beside: self.beside,
            temperature: self.temp,
            top_p: self.top_p,
            max_tokens: self.max_tokens.map(|count| count as usize),
        };
        (self.who.request(), talk, self.prompt)
    }
}
