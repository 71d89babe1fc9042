//! Python's regular expressions, as filters and metrics of tasks give them: `re.findall` as lm-eval
//! takes what it found, and `re.sub` with nothing.

use fancy_regex::Regex;

/// A compiled expression.
#[derive(Debug, Clone)]
pub struct Pattern {
    written: String,
    regex: Regex,
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.written == other.written
    }
}

impl Pattern {
    /// Compiles an expression.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(written: &str) -> Result<Pattern, String> {
        let regex = Regex::new(&translated(written))
            .map_err(|e| format!("the expression `{written}` is not understood: {e}"))?;
        Ok(Pattern {
            written: written.to_owned(),
            regex,
        })
    }

    /// What `re.findall` gives, each match as lm-eval reads it: the whole of it without groups,
    /// else the first group that is not empty, `None` where all are.
    pub fn find_all(&self, text: &str) -> Result<Vec<Option<String>>, String> {
        let mut found = Vec::new();
        for captures in self.regex.captures_iter(text) {
            let captures = captures.map_err(|e| self.failed(&e))?;
            let groups = captures.len() - 1;
            let group = |i| captures.get(i).map_or("", |m| m.as_str());
            found.push(match groups {
                0 | 1 => Some(group(groups).to_owned()),
                _ => (1..=groups)
                    .map(group)
                    .find(|part| !part.is_empty())
                    .map(str::to_owned),
            });
        }
        Ok(found)
    }

    /// The text without all matches.
    pub fn removed(&self, text: &str) -> Result<String, String> {
        let mut out = String::new();
        let mut at = 0;
        for found in self.regex.find_iter(text) {
            let found = found.map_err(|e| self.failed(&e))?;
            out.push_str(&text[at..found.start()]);
            at = found.end();
        }
        Ok(out + &text[at..])
    }

    fn failed(&self, error: &fancy_regex::Error) -> String {
        format!("the expression `{}` failed: {error}", self.written)
    }
}

/// The expression in this library's spelling: `$` is also before a line break at the end, and `\Z`
/// is the end alone.
fn translated(written: &str) -> String {
    let multiline = written.contains("(?m") || written.contains("(?sm");
    let mut out = String::new();
    let mut chars = written.chars();
    let mut class = false;
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('Z') => out.push_str("\\z"),
                Some(next) => out.extend(['\\', next]),
                None => out.push('\\'),
            },
            '[' if !class => {
                class = true;
                out.push('[');
                // a bracket in the first place is a member, behind `^`, too
                let mut rest = chars.clone();
                let mut first = rest.next();
                if first == Some('^') {
                    out.push('^');
                    chars.next();
                    first = rest.next();
                }
                if first == Some(']') {
                    out.push_str("\\]");
                    chars.next();
                }
            }
            // opens a class in a class here, and is a member in Python
            '[' => out.push_str("\\["),
            '&' | '~' if class => out.extend(['\\', c]),
            ']' => {
                class = false;
                out.push(']');
            }
            '$' if !class && !multiline => out.push_str("(?=\\n?\\z)"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(pattern: &str, text: &str) -> Vec<Option<String>> {
        Pattern::new(pattern).unwrap().find_all(text).unwrap()
    }

    fn some(texts: &[&str]) -> Vec<Option<String>> {
        texts.iter().map(|text| Some((*text).to_owned())).collect()
    }

    /// The values are `re.findall`'s of Python 3.11, groups taken as lm-eval's filter takes them.
    #[test]
    fn matches_are_pythons() {
        let numbers = r"(-?[$0-9.,]{2,})|(-?[0-9]+)";
        let text = "It costs $1,200.50 ... or 7, -3.";
        assert_eq!(
            found(numbers, text),
            some(&["$1,200.50", "...", "7,", "-3."])
        );
        assert_eq!(
            found(r"#### (\-?[0-9\.\,]+)", "a #### -1,5.\n#### 7"),
            some(&["-1,5.", "7"])
        );
        assert_eq!(found(r"[\]a]+", "x]a]"), some(&["]a]"]));
        assert_eq!(found(r"[]a]+", "x]a]"), some(&["]a]"]));
        assert_eq!(found(r"[[a]+", "x[a"), some(&["[a"]));
        assert_eq!(found("(a)?(b)?c", "c"), [None]);
        assert_eq!(found("(a)?c", "c"), some(&[""]));
    }

    /// `re.sub(pattern, "", text)` of Python 3.11.
    #[test]
    fn what_is_removed_is_what_python_removes() {
        let removed = |pattern: &str, text: &str| Pattern::new(pattern).unwrap().removed(text);
        assert_eq!(removed(r"\.$", "18.").unwrap(), "18");
        assert_eq!(removed(r"\.$", "18.\n").unwrap(), "18\n");
        assert_eq!(removed(r"\.$", "18.\n\n").unwrap(), "18.\n\n");
        assert_eq!(removed(r"(?s).*#### ", "a\n#### 3\n#### 4").unwrap(), "4");
        assert_eq!(removed(r"\$", "$1 [$]").unwrap(), "1 []");
        assert_eq!(removed(r"[$.]", "$1.5").unwrap(), "15");
        assert_eq!(removed(r"a\Z", "aa\n").unwrap(), "aa\n");
        assert!(Pattern::new("(a").is_err());
    }
}
