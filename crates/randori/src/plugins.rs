//! `randori plugins`: what is loaded, with options, types, defaults, bounds and documentation.

use anyhow::Result;
use randori_host::{Host, ItemInfo, PluginInfo};
use randori_sdk::seam::{OptionSpec, Value};

use crate::recipe::Recipe;
use crate::request::Request;
use crate::session;

/// Lists them.
pub fn plugins(request: &Request) -> Result<()> {
    let recipe = Recipe::without_file(&request.set)?; // of which `--set plugins.paths=…` counts
    let host = session::host(&recipe, request)?;
    if host.plugins().is_empty() {
        anyhow::bail!(
            "no plugin was found beside the binary, and none is linked in; `cargo build` at the repository's root builds them (`-p` and `--bin` do not)"
        );
    }
    let mut plugins: Vec<&PluginInfo> = host.plugins().iter().collect();
    plugins.sort_by(|a, b| a.name.cmp(&b.name));
    let each: Vec<String> = plugins.into_iter().map(|p| listed(p, &host)).collect();
    result!(request.watch, "{}", each.join("\n"));
    Ok(())
}

fn listed(plugin: &PluginInfo, host: &Host) -> String {
    let file = plugin.path.display();
    let from = match (plugin.is_linked(), host.replaces_linked(plugin)) {
        (true, _) => "linked into the program".to_string(),
        (false, true) => format!("{file} (instead of the one linked into the program)"),
        (false, false) => file.to_string(),
    };
    let mut out = format!(
        "{} {} - {}\n  {from}\n",
        plugin.name,
        plugin.version,
        one_line(&plugin.doc)
    );
    for item in &plugin.items {
        out.push_str(&format!(
            "  {} {}: {}\n",
            item.kind,
            item.name,
            one_line(&item.doc)
        ));
        out.extend(options(item));
    }
    out
}

fn options(item: &ItemInfo) -> Vec<String> {
    let width = item.options.iter().map(|o| o.name.len()).max().unwrap_or(0);
    item.options
        .iter()
        .map(|o| {
            format!(
                "    {:width$} = {}  {}\n",
                o.name,
                range(o),
                one_line(&o.doc)
            )
        })
        .collect()
}

/// `0.1 (number, 0..=100)`.
fn range(option: &OptionSpec) -> String {
    let (kind, default) = match &option.default {
        Value::Float(v) => ("number", format!("{v:?}")),
        Value::Int(v) => ("whole number", v.to_string()),
        Value::Bool(v) => ("true or false", v.to_string()),
        Value::Str(v) => ("text", format!("\"{v}\"")),
    };
    let bounds = match (option.min, option.max) {
        (Some(min), Some(max)) => format!(", {min}..={max}"),
        (Some(min), None) => format!(", >= {min}"),
        (None, Some(max)) => format!(", <= {max}"),
        (None, None) => String::new(),
    };
    let choices = match option.choices.is_empty() {
        true => String::new(),
        false => format!(", one of {}", option.choices.join(", ")),
    };
    format!("{default} ({kind}{bounds}{choices})")
}

fn one_line(doc: &str) -> String {
    doc.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_is_shown_with_type_default_and_bounds() {
        let option = OptionSpec {
            name: "beta".into(),
            doc: "How strongly.".into(),
            default: Value::Float(0.1),
            min: Some(0.0),
            max: Some(100.0),
            choices: Vec::new(),
        };
        assert_eq!(range(&option), "0.1 (number, 0..=100)");
    }
}
