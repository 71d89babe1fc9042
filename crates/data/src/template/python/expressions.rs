//! Parser of Jinja's expressions. An expression is parsed by jinja2's grammar and written for
//! minijinja, with a call of one of our functions (`_py_…`) for every operator on which the two
//! differ.

use super::names;
use super::reader::{Reader, Written, quoted};
use super::tokens::{Fault, Token};

/// Maximum nesting of brackets: more than any template has, less than the stack allows.
const DEEPEST: usize = 40;

/// A parsed expression, with what a call of it needs to know.
enum Node {
    Name(String),
    Attribute(String, String),
    Other(String),
}

impl Node {
    fn written(self) -> String {
        match self {
            Self::Name(name) => name,
            Self::Attribute(base, name) if names::is_method(&name) => {
                format!("_py_attr({base}, \"{name}\")")
            }
            Self::Attribute(base, name) => format!("{base}.{name}"),
            Self::Other(text) => text,
        }
    }
}

impl Reader<'_> {
    /// Parses the content of `{{ }}` or of an assignment: an expression, or several with commas,
    /// which make a tuple.
    pub(super) fn tuple(&mut self, conditional: bool) -> Written {
        let mut items = Vec::new();
        let mut several = false;
        loop {
            let done = matches!(self.peek(), Token::End | Token::Sign(")"))
                || self.is_name("recursive") && !items.is_empty();
            if done && !items.is_empty() {
                break;
            }
            items.push(if conditional {
                self.expression()?
            } else {
                self.either()?
            });
            if !self.skip_sign(",") {
                break;
            }
            several = true;
        }
        Ok(match items.pop() {
            Some(only) if !several => only,
            last => {
                items.extend(last);
                format!("_py_tuple({})", items.join(", "))
            }
        })
    }

    /// Parses `A if B else C`, or an expression that binds tighter.
    pub(super) fn expression(&mut self) -> Written {
        self.depth += 1;
        if self.depth > DEEPEST {
            return self.fault("brackets within brackets, too deep");
        }
        let mut value = self.either()?;
        while self.skip_name("if") {
            self.link()?;
            let test = self.either()?;
            value = if self.skip_name("else") {
                format!("({value} if {test} else {})", self.expression()?)
            } else {
                format!("({value} if {test})")
            };
        }
        self.depth -= 1;
        Ok(value)
    }

    fn either(&mut self) -> Written {
        self.joined("or", Self::both)
    }

    fn both(&mut self) -> Written {
        self.joined("and", Self::negation)
    }

    /// Parses `a and b`. minijinja folds constant operands and then yields a boolean, so a constant
    /// is wrapped in a function.
    fn joined(&mut self, word: &str, part: fn(&mut Self) -> Written) -> Written {
        let mut parts = vec![part(self)?];
        while self.skip_name(word) {
            self.link()?;
            parts.push(part(self)?);
        }
        match parts.len() {
            1 => Ok(parts.remove(0)),
            _ => {
                let parts: Vec<String> = parts.iter().map(|p| format!("_py_same({p})")).collect();
                Ok(format!("({})", parts.join(&format!(" {word} "))))
            }
        }
    }

    fn negation(&mut self) -> Written {
        let mut count = 0;
        while self.skip_name("not") {
            count += 1;
        }
        let value = self.comparison()?;
        Ok(match count {
            0 => value,
            _ if count % 2 == 1 => format!("(not {value})"),
            _ => format!("(not (not {value}))"),
        })
    }

    fn comparison(&mut self) -> Written {
        let mut parts = vec![self.sum()?];
        loop {
            let operator = match self.peek() {
                Token::Sign(sign @ ("==" | "!=" | "<" | "<=" | ">" | ">=")) => *sign,
                Token::Name(name) if name == "in" => "in",
                Token::Name(name) if name == "not" => match self.ahead() {
                    Token::Name(after) if after == "in" => {
                        self.at += 1;
                        "not in"
                    }
                    _ => break,
                },
                _ => break,
            };
            self.at += 1;
            parts.push(format!("\"{operator}\""));
            parts.push(self.sum()?);
        }
        Ok(call_unless_one("_py_compare", parts))
    }

    fn sum(&mut self) -> Written {
        self.chain(&["+", "-"], Self::joint)
    }

    fn joint(&mut self) -> Written {
        let mut parts = vec![self.product()?];
        while self.skip_sign("~") {
            parts.push(self.product()?);
        }
        Ok(call_unless_one("_py_join", parts))
    }

    fn product(&mut self) -> Written {
        self.chain(&["*", "/", "//", "%"], Self::power)
    }

    fn power(&mut self) -> Written {
        self.chain(&["**"], |reader| reader.unary(true))
    }

    /// Parses left-associative operators of one precedence into one flat call.
    fn chain(&mut self, signs: &[&str], part: fn(&mut Self) -> Written) -> Written {
        let mut parts = vec![part(self)?];
        while let Token::Sign(sign) = self.peek()
            && signs.contains(sign)
        {
            self.at += 1;
            parts.push(format!("\"{sign}\""));
            parts.push(part(self)?);
        }
        Ok(call_unless_one("_py_math", parts))
    }

    fn unary(&mut self, filters: bool) -> Written {
        let sign = match self.peek() {
            Token::Sign(sign @ ("-" | "+")) => Some(*sign),
            _ => None,
        };
        let base = match sign {
            Some(sign) => {
                self.at += 1;
                self.depth += 1;
                if self.depth > DEEPEST {
                    return self.fault("signs before signs, too many");
                }
                let of = self.unary(false)?;
                self.depth -= 1;
                Node::Other(format!("_py_sign(\"{sign}\", {of})"))
            }
            None => self.primary()?,
        };
        let node = self.postfix(base)?;
        if filters {
            self.filtered(node)
        } else {
            Ok(node.written())
        }
    }

    fn primary(&mut self) -> Result<Node, Fault> {
        Ok(match self.peek() {
            Token::Name(name) => {
                self.at += 1;
                match name.as_str() {
                    "true" | "True" => Node::Other("true".to_owned()),
                    "false" | "False" => Node::Other("false".to_owned()),
                    "none" | "None" => Node::Other("none".to_owned()),
                    "and" | "or" | "not" | "in" | "is" | "if" | "else" => {
                        self.at -= 1;
                        return self.unexpected("an expression");
                    }
                    _ => Node::Name(name.clone()),
                }
            }
            Token::Text(_) => {
                let mut whole = String::new();
                while let Token::Text(text) = self.peek() {
                    whole.push_str(text);
                    self.at += 1;
                }
                Node::Other(quoted(&whole))
            }
            Token::Whole(digits) => {
                self.at += 1;
                Node::Other(format!("({digits})"))
            }
            Token::Float(value) => {
                self.at += 1;
                Node::Other(format!("({value:?})"))
            }
            Token::Sign("(") => {
                self.at += 1;
                if self.skip_sign(")") {
                    return Ok(Node::Other("_py_tuple()".to_owned()));
                }
                let inner = self.tuple(true)?;
                self.sign(")")?;
                Node::Other(inner)
            }
            Token::Sign("[") => {
                self.at += 1;
                let mut items = Vec::new();
                while !self.skip_sign("]") {
                    items.push(self.expression()?);
                    if !self.skip_sign(",") {
                        self.sign("]")?;
                        break;
                    }
                }
                Node::Other(format!("_py_list({})", items.join(", ")))
            }
            Token::Sign("{") => {
                self.at += 1;
                let mut items = Vec::new();
                while !self.skip_sign("}") {
                    items.push(self.expression()?);
                    self.sign(":")?;
                    items.push(self.expression()?);
                    if !self.skip_sign(",") {
                        self.sign("}")?;
                        break;
                    }
                }
                Node::Other(format!("_py_dict({})", items.join(", ")))
            }
            _ => return self.unexpected("an expression"),
        })
    }

    fn postfix(&mut self, mut node: Node) -> Result<Node, Fault> {
        loop {
            if matches!(self.peek(), Token::Sign("." | "[" | "(")) {
                self.link()?;
            }
            node = match self.peek() {
                Token::Sign(".") => {
                    self.at += 1;
                    match self.next() {
                        // a macro's implicit variable, which would be undefined here
                        Token::Name(name) if name == "catch_kwargs" || name == "catch_varargs" => {
                            return self.fault(format!("`{name}` is not for chat templates"));
                        }
                        Token::Name(name) => Node::Attribute(node.written(), name.clone()),
                        Token::Whole(index) => {
                            Node::Other(format!("_py_item({}, {index})", node.written()))
                        }
                        _ => {
                            self.at -= 1;
                            return self.unexpected("a name");
                        }
                    }
                }
                Token::Sign("[") => {
                    self.at += 1;
                    Node::Other(self.subscript(node.written())?)
                }
                Token::Sign("(") => self.call(node)?,
                _ => return Ok(node),
            };
        }
    }

    /// Parses the content of `x[…]`: an index, several (a tuple), or a slice.
    fn subscript(&mut self, of: String) -> Written {
        let mut bounds: Vec<String> = Vec::new();
        let mut sliced = self.is_sign(":");
        let mut bound = match sliced {
            true => "none".to_owned(),
            false => self.tuple_of_subscripts()?,
        };
        while self.skip_sign(":") {
            sliced = true;
            bounds.push(bound);
            bound = match self.peek() {
                Token::Sign(":" | "]") => "none".to_owned(),
                _ => self.expression()?,
            };
        }
        bounds.push(bound);
        self.sign("]")?;
        match (sliced, bounds.len()) {
            (false, _) => Ok(format!("_py_item({of}, {})", bounds.join(", "))),
            (true, ..=3) => Ok(format!("_py_slice({of}, {})", bounds.join(", "))),
            _ => self.fault("a slice has at most three parts"),
        }
    }

    fn tuple_of_subscripts(&mut self) -> Written {
        let mut items = vec![self.expression()?];
        while self.skip_sign(",") {
            items.push(self.expression()?);
        }
        match items.len() {
            1 => Ok(items.remove(0)),
            _ => Ok(format!("_py_tuple({})", items.join(", "))),
        }
    }

    fn call(&mut self, node: Node) -> Result<Node, Fault> {
        let arguments = self.arguments()?;
        Ok(Node::Other(match node {
            // a recursive loop call takes anything that Python could iterate
            Node::Name(name) if name == "loop" => format!("loop(_py_iter({arguments}))"),
            Node::Name(name) => format!("{name}({arguments})"),
            Node::Attribute(base, name) if names::is_method(&name) => {
                let comma = if arguments.is_empty() { "" } else { ", " };
                format!("_py_call({base}, \"{name}\"{comma}{arguments})")
            }
            Node::Attribute(base, name) => format!("{base}.{name}({arguments})"),
            Node::Other(text) => format!("({text})({arguments})"),
        }))
    }

    /// Parses the arguments of a call, without the brackets.
    fn arguments(&mut self) -> Written {
        self.sign("(")?;
        let mut out = Vec::new();
        while !self.skip_sign(")") {
            if self.skip_sign("*") {
                out.push(format!("*{}", self.expression()?));
            } else if self.skip_sign("**") {
                out.push(format!("**{}", self.expression()?));
            } else if matches!(
                (self.peek(), self.ahead()),
                (Token::Name(_), Token::Sign("="))
            ) {
                let name = self.name()?;
                self.at += 1;
                out.push(format!("{name}={}", self.expression()?));
            } else {
                out.push(self.expression()?);
            }
            if !self.skip_sign(",") {
                self.sign(")")?;
                break;
            }
        }
        Ok(out.join(", "))
    }

    /// Parses filters and tests after an expression.
    fn filtered(&mut self, node: Node) -> Written {
        let plain = matches!(self.peek(), Token::Sign("|")) || self.is_name("is");
        if !plain {
            return Ok(node.written());
        }
        let mut out = node.written();
        loop {
            if self.is_sign("|") {
                out = format!("{out}{}", self.filters()?);
            } else if self.skip_name("is") {
                self.link()?;
                let negated = if self.skip_name("not") { "not " } else { "" };
                let name = self.dotted()?;
                out = format!("{out} is {negated}{name}({})", self.test_arguments()?);
            } else if self.is_sign("(") {
                self.link()?;
                out = format!("({out})({})", self.arguments()?);
            } else {
                return Ok(format!("({out})"));
            }
        }
    }

    /// Parses `|name(arguments)|name…`.
    pub(super) fn filters(&mut self) -> Written {
        let mut out = String::new();
        while self.skip_sign("|") {
            self.link()?;
            out.push('|');
            out.push_str(&self.filter()?);
        }
        Ok(out)
    }

    /// Parses `name(arguments)`.
    pub(super) fn filter(&mut self) -> Written {
        let name = self.dotted()?;
        let arguments = match self.is_sign("(") {
            true => self.arguments()?,
            false => String::new(),
        };
        Ok(format!("{name}({arguments})"))
    }

    fn dotted(&mut self) -> Written {
        let mut name = self.name()?;
        while self.skip_sign(".") {
            self.link()?;
            name = format!("{name}.{}", self.name()?);
        }
        Ok(name)
    }

    fn test_arguments(&mut self) -> Written {
        match self.peek() {
            Token::Sign("(") => self.arguments(),
            Token::Name(name) if matches!(name.as_str(), "else" | "or" | "and" | "if" | "in") => {
                Ok(String::new())
            }
            Token::Name(name) if name == "is" => self.fault("tests cannot stand one after another"),
            Token::Name(_)
            | Token::Text(_)
            | Token::Whole(_)
            | Token::Float(_)
            | Token::Sign("[" | "{") => {
                let first = self.primary()?;
                Ok(self.postfix(first)?.written())
            }
            _ => Ok(String::new()),
        }
    }
}

fn call_unless_one(function: &str, mut parts: Vec<String>) -> String {
    match parts.len() {
        1 => parts.remove(0),
        _ => format!("{function}({})", parts.join(", ")),
    }
}
