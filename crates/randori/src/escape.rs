//! Text from models, data sets, plugins and servers, made safe to show.

use std::borrow::Cow;

/// Text as it is shown: with control characters spelled, but for the ends of lines and tabs.
pub fn escaped(text: &str) -> Cow<'_, str> {
    if !text.contains(is_control) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match is_control(c) {
            true => out.extend(c.escape_default()),
            false => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// C0 without tab and line feed, delete, C1, and what turns the direction of the text after it.
fn is_control(c: char) -> bool {
    (c.is_control() && !matches!(c, '\n' | '\t'))
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_spelled_and_nothing_else_changes() {
        for (text, want) in [
            ("plain, 4 + 4 = 8\n\tnext", "plain, 4 + 4 = 8\n\tnext"),
            ("\u{1b}[2J\u{1b}]0;x\u{7}", "\\u{1b}[2J\\u{1b}]0;x\\u{7}"),
            ("a\rb\u{8}\u{7f}\0", "a\\rb\\u{8}\\u{7f}\\u{0}"),
            ("\u{9b}31m\u{85}\u{9d}", "\\u{9b}31m\\u{85}\\u{9d}"),
            ("\u{202e}fdp.exe\u{202c}", "\\u{202e}fdp.exe\\u{202c}"),
            (
                "\u{2066}\u{2067}\u{2068}\u{2069}",
                "\\u{2066}\\u{2067}\\u{2068}\\u{2069}",
            ),
            // right to left, joined, combined, wide: text like any other
            (
                "שלום\u{200f} می\u{200c}خواهم e\u{301} 漢字 👩\u{200d}🔬",
                "שלום\u{200f} می\u{200c}خواهم e\u{301} 漢字 👩\u{200d}🔬",
            ),
            ("a \\u{1b} b", "a \\u{1b} b"),
        ] {
            assert_eq!(escaped(text), want);
        }
        for c in ('\0'..=' ').chain('\u{7f}'..='\u{a0}') {
            let kept = matches!(c, '\n' | '\t' | ' ' | '\u{a0}');
            assert_eq!(escaped(&c.to_string()) == c.to_string(), kept, "{c:?}");
        }
    }
}
