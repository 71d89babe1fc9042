//! An answer while it is made: its tokens as they are drawn, and the text that is whole of them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use randori_sdk::seam::{SamplerFn, SamplerState, Step};

/// The last sampler of a chain, which changes nothing and hears each token that is drawn.
#[derive(Clone, Default)]
pub struct Ear(Arc<Mutex<Vec<u32>>>);

impl Ear {
    /// The tokens of the answer so far.
    pub fn heard(&self) -> Vec<u32> {
        self.tokens().clone()
    }

    fn tokens(&self) -> MutexGuard<'_, Vec<u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SamplerFn for Ear {
    fn name(&self) -> &str {
        "ear"
    }

    /// An answer that memory ran out for begins once more.
    fn begin(&self) -> Box<dyn SamplerState> {
        self.tokens().clear();
        Box::new(self.clone())
    }
}

impl SamplerState for Ear {
    fn apply(&mut self, _: &mut Step, _: &mut [f32]) -> Result<(), String> {
        Ok(())
    }

    fn accept(&mut self, token: u32, _: f32) {
        self.tokens().push(token);
    }
}

/// What of a text that grows has been told.
#[derive(Default)]
pub struct Told(String);

impl Told {
    /// What `text`, all that there is so far, has beyond what was told. A letter of which bytes are
    /// still to come, which decoders write as U+FFFD, is not told yet.
    pub fn next<'a>(&mut self, text: &'a str) -> &'a str {
        let whole = text.trim_end_matches('\u{fffd}');
        match whole.strip_prefix(self.0.as_str()) {
            Some(piece) => {
                self.0.push_str(piece);
                piece
            }
            None => "", // a decoder that takes something back may give it again
        }
    }

    /// What the finished `text` has beyond what was told, or from where it differs.
    pub fn last<'a>(&self, text: &'a str) -> &'a str {
        let both = text.chars().zip(self.0.chars());
        let same = both.take_while(|(new, old)| new == old);
        let length: usize = same.map(|(letter, _)| letter.len_utf8()).sum();
        &text[length..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_a_text_are_the_text() {
        let mut told = Told::default();
        // the two halves of a letter of four bytes, as decoders show them
        let grown = [
            "12",
            "12 pens \u{fffd}",
            "12 pens \u{fffd}\u{fffd}",
            "12 pens 🖊",
            "12 pens 🖊.",
        ];
        let pieces = grown.map(|text| told.next(text).to_owned());
        assert_eq!(pieces, ["12", " pens ", "", "🖊", "."]);
        assert_eq!(told.last("12 pens 🖊."), "");
        assert_eq!(told.last("12 pens 🖊.\u{fffd}"), "\u{fffd}"); // a letter that was never ended
        assert_eq!(Told::default().last("all"), "all");
    }

    #[test]
    fn what_a_decoder_takes_back_is_told_once() {
        let mut told = Told::default();
        assert_eq!(told.next("it 's"), "it 's");
        assert_eq!(told.next("it's"), "");
        assert_eq!(told.last("it's here"), "'s here");
    }
}
