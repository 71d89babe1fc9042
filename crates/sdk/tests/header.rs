//! `include/randori_plugin.h` is `src/abi.rs` in C, written by the small translator below. The test
//! fails when the header is out of date; `RANDORI_WRITE_HEADER=1 cargo test -p randori-sdk --test
//! header` writes it anew.

use std::{env, fs, path::Path};

const HEAD: &str = "/* Randori's plugin interface in C.
 *
 * Generated from crates/sdk/src/abi.rs; do not edit. To write it anew:
 *     RANDORI_WRITE_HEADER=1 cargo test -p randori-sdk --test abi
 *
 * A plugin exports one constant, named after its library: librandori_plugin_mine.so has
 *     const RandoriPlugin RANDORI_SYMBOL(randori_plugin_mine) = { ... };
";

const MIDDLE: &str = " */
#ifndef RANDORI_PLUGIN_H
#define RANDORI_PLUGIN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern \"C\" {
#endif

/* The name of a plugin's exported constant; `krate` is the library's name without `lib` and ending. */
#define RANDORI_SYMBOL(krate) randori_plugin_v1_##krate

/* Version of the SDK that this header is from: a plugin's `sdk`. */
#define RANDORI_SDK_VERSION \"VERSION\"

/* Text from a literal. */
#define RANDORI_STR(literal) { (const uint8_t *)(literal), sizeof(literal) - 1 }

";

const TAIL: &str = "#ifdef __cplusplus
}
#endif

#endif
";

/// One declaration of `abi.rs`: its doc comment and its code on one line.
struct Declaration {
    doc: Vec<String>,
    code: String,
}

/// Cuts the ABI's part of the source into declarations; ends at the first module.
fn declarations(source: &str) -> Vec<Declaration> {
    let (mut all, mut doc, mut code) = (Vec::new(), Vec::new(), String::new());
    for line in source.lines().map(str::trim) {
        if line.starts_with("pub mod ") {
            break;
        }
        if code.is_empty() {
            if let Some(text) = line.strip_prefix("///") {
                doc.push(text.trim().to_owned());
                continue;
            }
            if !line.starts_with("pub ") {
                continue; // attributes, module docs, imports
            }
        }
        // a field's doc stays with its field, marked as in C
        let text = line.strip_prefix("/// ").map(|doc| format!("/*{doc}*/"));
        code.push_str(&text.unwrap_or_else(|| line.to_owned()));
        code.push(' ');
        let is_struct = code.starts_with("pub struct");
        if (is_struct && line == "}") || (!is_struct && line.ends_with(';')) {
            all.push(Declaration {
                doc: std::mem::take(&mut doc),
                code: std::mem::take(&mut code).trim().to_owned(),
            });
        }
    }
    all
}

/// Intra-doc links and fields of the Rust side, as C spells them.
fn plain(doc: &str) -> String {
    let text = doc
        .replace("[`struct@", "`Randori")
        .replace("[`", "`")
        .replace("`]", "`");
    text.replace("::", ".").replace("*/", "* /")
}

fn comment(doc: &[String], indent: &str) -> String {
    match doc {
        [] => String::new(),
        [one] => format!("{indent}/* {} */\n", plain(one)),
        many => {
            let lines: Vec<_> = many
                .iter()
                .map(|line| format!("{indent} * {}", plain(line)))
                .collect();
            format!("{indent}/*\n{}\n{indent} */\n", lines.join("\n"))
        }
    }
}

/// A Rust type and a name as a C declarator.
fn declarator(rust: &str, name: &str) -> String {
    let rust = rust.trim().trim_end_matches(',');
    if let Some(inner) = rust
        .strip_prefix("Option<")
        .and_then(|r| r.trim().strip_suffix('>'))
    {
        return declarator(inner, name);
    }
    if let Some(signature) = rust.strip_prefix("unsafe extern \"C\" fn(") {
        let (parameters, result) = signature.rsplit_once(')').unwrap();
        let result = result.trim().strip_prefix("->").unwrap_or("void");
        let parameters: Vec<_> = parameters
            .split(',')
            .filter(|p| !p.trim().is_empty())
            .map(|p| {
                let (name, rust) = p.split_once(':').unwrap();
                declarator(rust, name.trim())
            })
            .collect();
        return format!(
            "{}({})",
            declarator(result, &format!("(*{name})")),
            parameters.join(", ")
        );
    }
    if let Some(to) = rust.strip_prefix("*const ") {
        return format!("const {}", declarator(to, &format!("*{name}")));
    }
    if let Some(to) = rust.strip_prefix("*mut ") {
        return declarator(to, &format!("*{name}"));
    }
    let c = match rust {
        "u8" => "uint8_t",
        "u32" => "uint32_t",
        "i64" => "int64_t",
        "usize" => "size_t",
        "f32" => "float",
        "f64" => "double",
        "c_void" | "void" => "void",
        own => return format!("Randori{own} {name}").replace(" )", ")"),
    };
    format!("{c} {name}")
}

fn translate(declaration: &Declaration) -> String {
    let doc = comment(&declaration.doc, "");
    let code = declaration.code.as_str();
    if let Some(constant) = code.strip_prefix("pub const ") {
        let (name, rest) = constant.split_once(": u32 = ").unwrap();
        let value = rest.trim_end_matches(';');
        return format!("{doc}#define RANDORI_{name} {value}\n");
    }
    if let Some(alias) = code.strip_prefix("pub type ") {
        let (name, rust) = alias.trim_end_matches(';').split_once(" = ").unwrap();
        return format!(
            "{doc}typedef {};\n",
            declarator(rust, &format!("Randori{name}"))
        );
    }
    let (name, body) = code
        .strip_prefix("pub struct ")
        .unwrap()
        .split_once(" {")
        .unwrap();
    let (mut fields, mut doc_lines) = (String::new(), Vec::new());
    for field in body.split("/*").skip(1) {
        // a doc of several lines comes as several comments, code after the last
        let (text, rest) = field.split_once("*/").unwrap();
        doc_lines.push(text.to_owned());
        if let Some(code) = rest.trim().strip_prefix("pub ") {
            fields.push_str(&comment(&std::mem::take(&mut doc_lines), "    "));
            let code = code.trim_end_matches('}').trim().trim_end_matches(',');
            let (name, rust) = code.split_once(':').unwrap();
            fields.push_str(&format!("    {};\n", declarator(rust, name)));
        }
    }
    format!("{doc}typedef struct Randori{name} {{\n{fields}}} Randori{name};\n")
}

fn header() -> String {
    let source = include_str!("../src/abi.rs");
    let rules: String = source
        .lines()
        .map_while(|line| line.strip_prefix("//!"))
        .skip(1)
        .map(|line| format!(" *{}\n", plain(line)))
        .collect();
    let body: Vec<_> = declarations(source).iter().map(translate).collect();
    let middle = MIDDLE.replace("VERSION\"", &format!("{}\"", randori_sdk::VERSION));
    format!("{HEAD}{rules}{middle}{}\n{TAIL}", body.join("\n"))
}

#[test]
fn the_header_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("include/randori_plugin.h");
    let now = header();
    if env::var_os("RANDORI_WRITE_HEADER").is_some() {
        fs::write(&path, &now).unwrap();
    }
    let there = fs::read_to_string(&path).unwrap_or_default();
    let differ = there.lines().zip(now.lines()).position(|(a, b)| a != b);
    assert!(
        there == now,
        "include/randori_plugin.h is not what src/abi.rs says (first at line {}); run: RANDORI_WRITE_HEADER=1 cargo test -p randori-sdk --test abi",
        differ.unwrap_or(there.lines().count().min(now.lines().count())) + 1
    );
}

#[test]
fn declarations_are_translated() {
    for (rust, name, c) in [
        ("usize", "n", "size_t n"),
        ("*const u32", "ids", "const uint32_t *ids"),
        ("*mut c_void", "ctx", "void *ctx"),
        ("Str", "name", "RandoriStr name"),
        (
            "unsafe extern \"C\" fn(ctx: *mut c_void) -> f64",
            "uniform",
            "double (*uniform)(void *ctx)",
        ),
        (
            "Option<unsafe extern \"C\" fn(object: *mut c_void)>",
            "destroy",
            "void (*destroy)(void *object)",
        ),
        (
            "unsafe extern \"C\" fn(args: *const Value,) -> *mut c_void",
            "create",
            "void *(*create)(const RandoriValue *args)",
        ),
    ] {
        assert_eq!(declarator(rust, name), c);
    }
}
