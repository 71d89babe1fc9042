//! Translation of a chat template's source for minijinja. Text outside tags and white-space control
//! are unchanged; expressions go through `Reader`, and blocks that transformers adds become
//! minijinja's.

use super::reader::Reader;
use super::tokens::{self, Fault, Token};

/// A block whose body may be rendered more than once, and spends budget for its text each time.
struct Body {
    end: &'static str,
    /// Offset in the output where the spending is inserted, and the bytes of text before it.
    place: usize,
    before: usize,
    /// Tags inserted at the start of the body, and the end of the opening tag.
    head: String,
    close: String,
    /// Length of the opening delimiter: `{%`, `{%-` or `{%+`.
    mark: usize,
    /// Whether a `break` or `continue` may end an iteration early.
    left: bool,
    /// Whether the loop's `else` was moved after it.
    moved: bool,
}

/// Opening and closing words of blocks; a `set` opens one if it has no `=`.
const BLOCKS: [(&str, &str); 9] = [
    ("if", "endif"),
    ("for", "endfor"),
    ("macro", "endmacro"),
    ("call", "endcall"),
    ("filter", "endfilter"),
    ("with", "endwith"),
    ("generation", "endgeneration"),
    ("block", "endblock"),
    ("set", "endset"),
];

/// Implicit variables of a jinja2 macro: its arguments beyond its parameters.
const IMPLIED: [&str; 2] = ["varargs", "kwargs"];

/// Maximum number of `elif`s of the open `if`s: minijinja's parser and compiler recurse once for
/// each, and the stack must suffice.
const MOST_ELIFS: usize = 200;

struct Writer<'a> {
    source: &'a str,
    pieces: Vec<String>,
    /// Bytes of text outside tags so far.
    raw: usize,
    open: Vec<Body>,
    /// Closing words of the open blocks; `else` in a loop's own.
    blocks: Vec<&'static str>,
    /// Number of `elif`s of each open `if`, and their sum.
    ifs: Vec<usize>,
    elifs: usize,
    line: usize,
}

/// Translates a source, keeping its lines.
pub(super) fn translate(source: &str) -> Result<String, Fault> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut writer = Writer {
        source: &source,
        pieces: Vec::new(),
        raw: 0,
        open: Vec::new(),
        blocks: Vec::new(),
        ifs: Vec::new(),
        elifs: 0,
        line: 1,
    };
    let mut at = 0;
    while let Some(found) = next_tag(&source[at..]) {
        writer.text(&source[at..at + found]);
        at = writer.tag(at + found)?;
    }
    writer.text(&source[at..]);
    if let Some(body) = writer.open.pop() {
        let what = format!("`{}` is missing at the end", body.end);
        let line = writer.line;
        return Err(Fault { line, what });
    }
    Ok(writer.pieces.concat())
}

/// Offset of the next `{%`, `{{` or `{#`.
fn next_tag(text: &str) -> Option<usize> {
    text.match_indices('{')
        .map(|(at, _)| at)
        .find(|at| matches!(text.as_bytes().get(at + 1), Some(b'%' | b'{' | b'#')))
}

impl Writer<'_> {
    fn text(&mut self, text: &str) {
        self.raw += text.len();
        self.copy(text);
    }

    fn copy(&mut self, text: &str) {
        self.line += text.matches('\n').count();
        self.pieces.push(text.to_owned());
    }

    /// Translates the tag at `at` and returns the offset of its end.
    fn tag(&mut self, at: usize) -> Result<usize, Fault> {
        let rest = &self.source[at..];
        let line = self.line;
        if rest.starts_with("{#") {
            let Some(end) = rest.find("#}") else {
                let what = "a comment that begins here is not closed by `#}`".to_owned();
                return Err(Fault { line, what });
            };
            self.copy(&rest[..end + 2]);
            return Ok(at + end + 2);
        }
        let is_block = rest.starts_with("{%");
        let trim = match rest.as_bytes().get(2) {
            Some(b'-') => "-",
            Some(b'+') => "+",
            _ => "",
        };
        let start = at + 2 + trim.len();
        if is_block && let Some((opened, length)) = verbatim(rest) {
            // jinja2 trims no line break after `raw`, minijinja does unless told otherwise
            match rest[..opened].ends_with("-%}") || rest[..opened].ends_with("+%}") {
                true => self.text(&rest[..opened]),
                false => self.text(&format!("{}+%}}", &rest[..opened - 2])),
            }
            self.text(&rest[opened..length]);
            return Ok(at + length);
        }
        let close = if is_block { "%}" } else { "}}" };
        let tag = tokens::read(self.source, start, close, line)?;
        self.refuse_implied(&tag.tokens)?;
        let mut reader = Reader::new(&tag.tokens);
        // a line break inside a string or between tokens
        let breaks = "\n".repeat(tag.breaks);
        let shut = format!("{breaks} {}{close}", tag.trim);
        if is_block {
            self.statement(&mut reader, trim, shut)?;
        } else {
            let value = reader.tuple(true)?;
            reader.end()?;
            // `{{+` has no effect in jinja2 either
            let trim = if trim == "+" { "" } else { trim };
            self.pieces.push(format!("{{{{{trim} {value}{shut}"));
        }
        self.line += tag.breaks;
        Ok(tag.end)
    }

    fn statement(
        &mut self,
        reader: &mut Reader<'_>,
        trim: &str,
        shut: String,
    ) -> Result<(), Fault> {
        let word = reader.name()?;
        self.count_elifs(reader, &word)?;
        if word == "else" && self.blocks.last() == Some(&"endfor") {
            return self.loop_else(reader, trim, &shut);
        }
        if matches!(word.as_str(), "break" | "continue") {
            self.leave(reader, &word)?;
        }
        let mut head = String::new();
        let (mut inside, opens) = inside(reader, &word, &mut head)?;
        reader.end()?;
        self.nest(&word, opens);
        let ends = match word.as_str() {
            "for" => Some("endfor"),
            "macro" => Some("endmacro"),
            "call" => Some("endcall"),
            _ => None,
        };
        if let Some(end) = ends {
            self.pieces.push(format!("{{%{trim} {inside}"));
            self.open.push(Body {
                end,
                place: self.pieces.len(),
                before: self.raw,
                head,
                close: shut,
                mark: 2 + trim.len(),
                left: false,
                moved: false,
            });
            self.pieces.push(String::new());
            return Ok(());
        }
        if self.open.last().is_some_and(|body| body.end == word)
            && let Some(body) = self.open.pop()
        {
            if body.moved {
                inside = "endwith %}{% endif".to_owned();
            }
            let mut head = body.head;
            match self.raw - body.before {
                0 => {}
                bytes => head.push_str(&format!(" %}}{{% set _py_paid = _py_pay({bytes})")),
            }
            self.pieces[body.place] = head + &body.close;
        }
        self.pieces.push(format!("{{%{trim} {inside}{shut}"));
        Ok(())
    }

    /// Counts the `elif`s of the open `if`s.
    ///
    /// # Errors
    /// More than [`MOST_ELIFS`] of them.
    fn count_elifs(&mut self, reader: &Reader<'_>, word: &str) -> Result<(), Fault> {
        match word {
            "if" => self.ifs.push(0),
            "elif" => {
                self.elifs += 1;
                if let Some(count) = self.ifs.last_mut() {
                    *count += 1;
                }
                if self.elifs > MOST_ELIFS {
                    return reader.fault(format!(
                        "`elif` after `elif`, too many: more than {MOST_ELIFS}"
                    ));
                }
            }
            "endif" => self.elifs -= self.ifs.pop().unwrap_or(0),
            _ => {}
        }
        Ok(())
    }

    /// Updates the list of open blocks.
    fn nest(&mut self, word: &str, opens: bool) {
        if let Some(&(_, end)) = BLOCKS.iter().find(|(begin, _)| opens && *begin == word) {
            self.blocks.push(end);
            return;
        }
        let ends = |end: &&str| *end == word || (*end == "else" && word == "endfor");
        if self.blocks.last().is_some_and(ends) {
            self.blocks.pop();
        }
    }

    /// Records a `break` or `continue` with its loop. minijinja jumps out without closing the
    /// blocks opened in between, so the text from there on is lost.
    fn leave(&mut self, reader: &Reader<'_>, word: &str) -> Result<(), Fault> {
        match self.blocks.iter().rev().find(|end| **end != "endif") {
            Some(&"endfor") => {
                if let Some(body) = self.open.last_mut() {
                    body.left = true;
                }
                Ok(())
            }
            None | Some(&("endmacro" | "endcall")) => {
                reader.fault(format!("`{word}` stands in no loop"))
            }
            Some(&"else") => reader.fault(format!(
                "`{word}` in the `else` of a loop is not for chat templates"
            )),
            Some(end) => {
                let between = end.trim_start_matches("end");
                reader.fault(format!(
                    "`{word}` within a `{between}` of its loop is not for chat templates"
                ))
            }
        }
    }

    /// Translates the `else` of a loop: jinja2 runs it if no iteration reached the end of the body,
    /// minijinja if there was no iteration. The two differ if something ends an iteration early:
    /// then the loop records that one was completed, and the `else` follows it as an `if`.
    fn loop_else(&mut self, reader: &Reader<'_>, trim: &str, shut: &str) -> Result<(), Fault> {
        reader.end()?;
        if let Some(last) = self.blocks.last_mut() {
            *last = "else";
        }
        let Some(body) = self.open.last_mut().filter(|body| body.left) else {
            self.pieces.push(format!("{{%{trim} else{shut}"));
            return Ok(());
        };
        let opening = &mut self.pieces[body.place - 1];
        if opening.ends_with(" recursive") {
            return reader.fault(
                "the `else` of a recursive loop with `break` or `continue` is not for chat \
                 templates",
            );
        }
        body.moved = true;
        let name = format!("_py_ran_{}", body.place);
        let (mark, rest) = opening.split_at(body.mark);
        *opening = format!("{mark} set {name} = _py_ran() %}}{{%{rest}");
        self.pieces.push(format!(
            "{{%{trim} set {name}.once = true %}}{{% endfor %}}\
             {{% if not {name}.once %}}{{% with{shut}"
        ));
        Ok(())
    }

    /// Refuses a macro's implicit arguments: here they would be undefined, and the template's
    /// output from them would be lost.
    fn refuse_implied(&self, tokens: &[(Token, usize)]) -> Result<(), Fault> {
        let Some(body) = self.open.iter().rev().find(|body| body.end != "endfor") else {
            return Ok(());
        };
        let opening = &self.pieces[body.place - 1];
        let part = |c: char| c != '_' && !c.is_alphanumeric();
        for (at, (token, line)) in tokens.iter().enumerate() {
            let Token::Name(name) = token else { continue };
            let before = at.checked_sub(1).map(|before| &tokens[before].0);
            let after = tokens.get(at + 1).map(|(token, _)| token);
            let read = !matches!(before, Some(Token::Sign("." | "|")))
                && !matches!(after, Some(Token::Sign("=")));
            let implied = read && IMPLIED.contains(&name.as_str());
            if implied && !opening.split(part).any(|own| own == name) {
                let what = format!("`{name}` in a macro is not for chat templates");
                return Err(Fault { line: *line, what });
            }
        }
        Ok(())
    }
}

/// Translates a statement, and says whether it may open a block; `head` receives the tags that
/// begin its body.
fn inside(reader: &mut Reader<'_>, word: &str, head: &mut String) -> Result<(String, bool), Fault> {
    let text = match word {
        "if" | "elif" => format!("{word} {}", reader.tuple(false)?),
        "for" => head_of_for(reader)?,
        "set" => return set(reader),
        "macro" => format!("macro {}({})", reader.name()?, parameters(reader, head)?),
        "call" => {
            let given = match reader.is_sign("(") {
                true => format!("({})", parameters(reader, head)?),
                false => String::new(),
            };
            format!("call{given} {}", reader.expression()?)
        }
        "filter" => format!("filter {}{}", reader.filter()?, reader.filters()?),
        "with" => with(reader)?,
        "do" => format!("set _py_done = {}", reader.tuple(true)?),
        // transformers marks the assistant's tokens with it; in rendering it is a scope
        "generation" => "with".to_owned(),
        "endgeneration" => "endwith".to_owned(),
        "include" | "import" | "from" | "extends" => {
            return reader.fault(format!(
                "`{word}` needs another file, which a chat template has not"
            ));
        }
        // without template inheritance a block is a named scope
        "block" => {
            reader.name()?;
            reader.skip_name("scoped");
            "with".to_owned()
        }
        "endblock" => {
            let _ = reader.rest();
            "endwith".to_owned()
        }
        "autoescape" => return reader.fault("`autoescape` is not for chat templates"),
        _ => format!("{word}{}", reader.rest()),
    };
    Ok((text, true))
}

/// Lengths of the `{% raw %}` tag at the start of a text, and of its whole block, with both tags.
fn verbatim(rest: &str) -> Option<(usize, usize)> {
    let opened = raw_tag(rest, "raw")?;
    let mut at = opened;
    loop {
        at += rest[at..].find("{%")?;
        match raw_tag(&rest[at..], "endraw") {
            Some(length) => return Some((opened, at + length)),
            None => at += 2,
        }
    }
}

/// Length of a tag of this one word at the start of a text.
fn raw_tag(rest: &str, word: &str) -> Option<usize> {
    let inner = rest.strip_prefix("{%")?;
    let inner = inner.trim_start_matches(['-', '+']).trim_start();
    let inner = inner.strip_prefix(word)?.trim_start();
    let inner = inner.trim_start_matches(['-', '+']).strip_prefix("%}")?;
    Some(rest.len() - inner.len())
}

/// Translates the target of an assignment, and says whether it unpacks a value.
fn target(reader: &mut Reader<'_>) -> Result<(String, bool), Fault> {
    let mut items = Vec::new();
    let mut several = false;
    loop {
        if reader.skip_sign("(") {
            reader.link()?;
            let (inner, apart) = target(reader)?;
            reader.sign(")")?;
            items.push(format!("({inner})"));
            several |= apart;
        } else {
            let mut name = reader.name()?;
            while reader.skip_sign(".") {
                reader.link()?;
                name = format!("{name}.{}", reader.name()?);
            }
            items.push(name);
        }
        if !reader.skip_sign(",") {
            break;
        }
        several = true;
        if reader.is_name("in") || reader.is_sign("=") || reader.is_sign(")") {
            break;
        }
    }
    Ok((items.join(", "), several))
}

fn head_of_for(reader: &mut Reader<'_>) -> Result<String, Fault> {
    let (items, several) = target(reader)?;
    if !reader.skip_name("in") {
        return reader.fault("expected `in` after the names of a loop");
    }
    let over = reader.tuple(false)?;
    let function = if several { "_py_rows" } else { "_py_iter" };
    let mut out = format!("for {items} in {function}({over})");
    if reader.skip_name("if") {
        out.push_str(&format!(" if {}", reader.expression()?));
    }
    if reader.skip_name("recursive") {
        out.push_str(" recursive");
    }
    Ok(out)
}

/// Translates a `set`, and says whether it opens a block.
fn set(reader: &mut Reader<'_>) -> Result<(String, bool), Fault> {
    let (items, several) = target(reader)?;
    if !reader.skip_sign("=") {
        return Ok((format!("set {items} {}", reader.filters()?), true));
    }
    let value = reader.tuple(true)?;
    let text = match (several, items.contains('.')) {
        // transformers' namespaces refuse such a name, but only when it is set
        (_, true) if items.contains("._") => {
            format!("set {items} = raise_exception(\"`{items}` begins with an underscore\")")
        }
        (true, _) => format!("set {items} = _py_row({value})"),
        (false, true) => format!("set {items} = _py_held({value})"),
        (false, false) => format!("set {items} = {value}"),
    };
    Ok((text, false))
}

/// Translates the parameters of a macro. Defaults are set at the start of its body, where one may
/// use the parameters before it; minijinja evaluates the last one first.
fn parameters(reader: &mut Reader<'_>, head: &mut String) -> Result<String, Fault> {
    reader.sign("(")?;
    let mut out = Vec::new();
    while !reader.skip_sign(")") {
        let name = reader.name()?;
        out.push(match reader.skip_sign("=") {
            true => {
                let default = reader.expression()?;
                head.push_str(&format!(
                    " %}}{{% set {name} = ({name} if {name} is defined() else {default})"
                ));
                format!("{name}=_py_missing")
            }
            false => name,
        });
        if !reader.skip_sign(",") {
            reader.sign(")")?;
            break;
        }
    }
    Ok(out.join(", "))
}

fn with(reader: &mut Reader<'_>) -> Result<String, Fault> {
    let mut out = Vec::new();
    while reader.end().is_err() {
        let (items, _) = target_of_with(reader)?;
        reader.sign("=")?;
        out.push(format!("{items} = {}", reader.expression()?));
        if !reader.skip_sign(",") {
            break;
        }
    }
    Ok(format!("with {}", out.join(", ")))
}

fn target_of_with(reader: &mut Reader<'_>) -> Result<(String, bool), Fault> {
    match reader.is_sign("(") {
        true => target(reader),
        false => Ok((reader.name()?, false)),
    }
}
