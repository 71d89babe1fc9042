//! A recipe's text, line by line, with its comments.

use std::fmt::Display;

/// Columns of a line.
const WIDTH: usize = 100;
/// Where comments begin that stand behind a value.
const COMMENT: usize = 34;

/// Why a key has the value it has that the user gave it.
const GIVEN: &str = "given by --set";

/// A key that the user gave a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// Empty for keys outside any section.
    pub section: String,
    /// Without its section.
    pub key: String,
    /// As TOML.
    pub value: String,
}

/// The text so far, and what must still be in it.
#[derive(Default)]
pub struct Page {
    text: String,
    /// The one that lines are added to.
    section: String,
    /// Not written yet.
    given: Vec<Given>,
}

impl Page {
    /// An empty page, on which given values take the place of others.
    pub fn with(given: Vec<Given>) -> Page {
        Page {
            given,
            ..Page::default()
        }
    }

    /// A comment of its own, on as many lines as it needs.
    pub fn say(&mut self, text: &str) {
        let mut line = String::from("#");
        let indent = text.len() - text.trim_start().len();
        line.push_str(&" ".repeat(indent));
        for word in text.split_whitespace() {
            if line.chars().count() + 1 + word.chars().count() > WIDTH && line.len() > 1 {
                self.line(&line);
                line = String::from("#");
            }
            line.push(' ');
            line.push_str(word);
        }
        self.line(&line);
    }

    /// The head of a section, after what was given of the one before.
    pub fn section(&mut self, name: &str) {
        self.leave();
        self.line("");
        self.line(&format!("[{name}]"));
        self.section = name.to_owned();
    }

    /// A key with its value as TOML (the given one, where there is one), and why it is that.
    pub fn key(&mut self, key: &str, value: impl Display, why: &str) {
        let is_it = |given: &Given| given.section == self.section && given.key == key;
        match self.given.iter().position(is_it) {
            Some(at) => {
                let Given { value, .. } = self.given.remove(at);
                self.entry(key, value, GIVEN);
            }
            None => self.entry(key, value, why),
        }
    }

    /// Writes what was given of this section and is not written yet.
    fn leave(&mut self) {
        let given = std::mem::take(&mut self.given).into_iter();
        let is_here = |given: &Given| given.section == self.section;
        let (own, others): (Vec<Given>, Vec<Given>) = given.partition(is_here);
        self.given = others;
        for Given { key, value, .. } in own {
            self.entry(&key, value, GIVEN);
        }
    }

    /// A key's line, the reason behind the value, or above it where the line would be too long.
    fn entry(&mut self, key: &str, value: impl Display, why: &str) {
        let plain = format!("{key} = {value}");
        if why.is_empty() {
            return self.line(&plain);
        }
        let line = format!("{plain:COMMENT$} # {why}");
        match line.chars().count() <= WIDTH {
            true => self.line(&line),
            false => {
                self.say(why);
                self.line(&plain);
            }
        }
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// The whole text, sections that hold nothing but given keys last.
    pub fn text(mut self) -> String {
        self.leave();
        while let Some(Given { section, .. }) = self.given.first().cloned() {
            self.section(&section);
            self.leave();
        }
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_stand_behind_values_or_above_long_ones() {
        let mut page = Page::default();
        page.say("  randori run r.toml");
        page.key("name", "\"r\"", "a name");
        page.section("data");
        page.key("train", format!("\"{}\"", "d".repeat(80)), "what is read");
        page.say(&"word ".repeat(30));
        let text = page.text();
        let want = "#   randori run r.toml\nname = \"r\"                         # a name\n\n[data]\n\
                    # what is read\ntrain = \"ddd";
        assert!(text.starts_with(want), "{text}");
        let last: Vec<&str> = text.lines().rev().take(2).collect();
        assert_eq!(last[0], format!("#{}", " word".repeat(11)));
        assert_eq!(last[1].len(), 96);
    }
    #[test]
    fn given_keys_stand_in_the_place_of_decided_ones_or_end_their_section() {
        let given = |section: &str, key: &str, value: &str| Given {
            section: section.to_owned(),
            key: key.to_owned(),
            value: value.to_owned(),
        };
        let mut page = Page::with(vec![
            given("compare", "seeds", "[1, 2]"),
            given("train", "lr", "1.0"),
            given("sft", "lr", "2.0"),
            given("", "seed", "7"),
            given("train", "clip", "3.0"),
        ]);
        page.key("name", "\"r\"", "");
        page.section("sft");
        page.section("train");
        page.key("lr", "0.1", "a rate");
        page.key("batch", 8, "");
        let text = page.text();
        let lines: Vec<&str> = text.lines().map(|line| line.trim_end()).collect();
        let given = |line: &str| format!("{line:COMMENT$} # {GIVEN}");
        let want = [
            "name = \"r\"".to_owned(),
            given("seed = 7"),
            String::new(),
            "[sft]".to_owned(),
            given("lr = 2.0"),
            String::new(),
            "[train]".to_owned(),
            given("lr = 1.0"),
            "batch = 8".to_owned(),
            given("clip = 3.0"),
            String::new(),
            "[compare]".to_owned(),
            given("seeds = [1, 2]"),
        ];
        assert_eq!(lines, want);
    }
}
