//! An error as people read it: one line.

/// The error and what it came from, joined; a cause that its effect already quotes is not said twice.
pub fn one_line(error: &anyhow::Error) -> String {
    let mut out = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if out.contains(&text) {
            continue;
        }
        if !out.is_empty() {
            out.push_str(": ");
        }
        out.push_str(&text);
    }
    out.split('\n')
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect::<Vec<_>>()
        .join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn an_error_is_one_line_with_its_causes() {
        let cause: anyhow::Result<()> = Err(anyhow::anyhow!("file not found\nreally"));
        let error = cause.context("model.source: m").unwrap_err();
        assert_eq!(one_line(&error), "model.source: m: file not found; really");
        let quoted: anyhow::Result<()> = Err(anyhow::anyhow!("x"));
        assert_eq!(one_line(&quoted.context("a: x").unwrap_err()), "a: x");
    }
}
