//! A recipe's text, line by line, with its comments.

use std::fmt::Display;

/// Columns of a line.
const WIDTH: usize = 100;
/// Where comments begin that stand behind a value.
const COMMENT: usize = 34;

/// The text so far.
#[derive(Default)]
pub struct Page(String);

impl Page {
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

    /// The head of a section.
    pub fn section(&mut self, name: &str) {
        self.line("");
        self.line(&format!("[{name}]"));
    }

    /// A key with its value as TOML, and why it is that: behind it, or above it where the line
    /// would be too long.
    pub fn key(&mut self, key: &str, value: impl Display, why: &str) {
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
        self.0.push_str(line);
        self.0.push('\n');
    }

    /// The whole text.
    pub fn text(self) -> String {
        self.0
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
}
