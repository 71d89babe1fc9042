//! What `randori serve` is asked for.

use std::time::Duration;

use clap::value_parser;
use randori::{Request, Serve};

use super::Who;

/// The variable that holds the key, which other programs then cannot read off the command line.
const KEY: &str = "RANDORI_API_KEY";

/// The command line of `randori serve`.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    #[command(flatten)]
    who: Who,
    /// Address to listen at. Another than this machine's own loopback wants a key
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: String,
    /// Port to listen at; 0 takes one that is free
    #[arg(long, value_name = "NUMBER", default_value_t = 8000)]
    port: u16,
    /// The key that clients must show; better given as RANDORI_API_KEY, which others on this
    /// machine cannot read
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,
    /// Sequences that are computed at once; generate.batch of the recipe where it is not given
    #[arg(long, value_name = "COUNT", value_parser = value_parser!(u32).range(1..))]
    slots: Option<u32>,
    /// Most tokens of prompt and answer together; the model's window, up to 4096, where it is not
    /// given
    #[arg(long, value_name = "COUNT", value_parser = value_parser!(u32).range(2..))]
    context: Option<u32>,
    /// Most sequences that wait for a slot; who comes then is refused
    #[arg(long, value_name = "COUNT", default_value_t = 256, value_parser = value_parser!(u32).range(1..))]
    queue: u32,
    /// Most seconds that an answer may take, waiting included
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = value_parser!(u32).range(1..))]
    timeout: u32,
}

impl Args {
    /// Whom to serve, and how.
    pub fn asked(self) -> (Request, Serve) {
        let how = Serve {
            host: self.host,
            port: self.port,
            key: self.api_key.or_else(|| std::env::var(KEY).ok()),
            slots: self.slots.map(|count| count as usize),
            context: self.context.map(|count| count as usize),
            queue: self.queue as usize,
            time: Duration::from_secs(self.timeout.into()),
        };
        (self.who.request(), how)
    }
}
