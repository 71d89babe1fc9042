//! `data.columns`: which column of a data set is read as what.

use randori_data::Columns;

use super::setting::{Bound, Fault, Raw, RawValue, Setting, toml_text};
use randori_host::nearest;

impl Setting for Columns {
    fn shape() -> String {
        "table of columns".into()
    }
    fn read(raw: Option<&Raw>, bound: &Bound) -> Result<Self, Fault> {
        let Some(raw) = raw else {
            return Ok(Columns::default());
        };
        let RawValue::Table(rows) = &raw.value else {
            return Err(raw.expected("a table {prompt = \"its column\", …}"));
        };
        let mut columns: Vec<(String, String)> = Vec::new();
        for (name, value) in rows {
            if !Columns::names().any(|known| known == name) {
                let near = match nearest(name, Columns::names()) {
                    Some(near) => format!("nearest: `{near}`"),
                    None => format!("one of {}", Columns::names().collect::<Vec<_>>().join(", ")),
                };
                let rule = format!("names `{name}`, which is not read; {near}");
                return Err(value.fault(rule));
            }
            let value = Raw {
                from_command_line: raw.from_command_line,
                ..value.clone()
            };
            let column = String::read(Some(&value), bound)
                .map_err(|fault| value.fault(format!("of `{name}` {}", fault.rule)))?;
            if let Some((other, _)) = columns.iter().find(|(_, theirs)| *theirs == column) {
                let rule = format!("reads the column `{column}` as `{other}` and as `{name}`");
                return Err(value.fault(rule));
            }
            columns.push((name.clone(), column));
        }
        Ok(Columns(columns))
    }
    fn show(&self) -> Option<String> {
        let each = self.0.iter();
        let each: Vec<String> = each
            .map(|(name, column)| format!("{name} = {}", toml_text(column)))
            .collect();
        Some(match each.is_empty() {
            true => "{}".into(),
            false => format!("{{ {} }}", each.join(", ")),
        })
    }
}
