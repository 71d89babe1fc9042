//! Names of the role of a tool's result, which differ between data sets and templates.

/// Names besides `tool`: OpenAI's former one, GLM's and LLaMA-Factory's, Llama 3's.
const OTHERS: [&str; 3] = ["function", "observation", "ipython"];

/// Whether a role is a tool result's, by any of its names.
pub(crate) fn is_result(role: &str) -> bool {
    role == "tool" || OTHERS.contains(&role)
}

/// The names besides `tool` with which a template's source compares a role.
pub(super) fn known(source: &str) -> Vec<&'static str> {
    let mut known = OTHERS.to_vec();
    known.retain(|name| compares(source, name));
    known
}

/// Whether a source compares a role with this name: `role == 'function'`, `m['role'] in ['tool',
/// 'function']`.
fn compares(source: &str, name: &str) -> bool {
    ["'", "\""].into_iter().any(|quote| {
        let spelt = format!("{quote}{name}{quote}");
        let mut places = source.match_indices(&spelt);
        places.any(|(at, _)| follows_role(&source[..at]))
    })
}

/// Whether a text ends with the start of a role's comparison, with one name or a list.
fn follows_role(before: &str) -> bool {
    let before = before.trim_end();
    let one = ["==", "!="]
        .into_iter()
        .find_map(|sign| before.strip_suffix(sign));
    let several = || {
        let name = |c: char| c.is_alphanumeric() || "_'\", ".contains(c);
        let list = before.trim_end_matches(name).strip_suffix(['[', '('])?;
        list.trim_end().strip_suffix(" in")
    };
    one.or_else(several).is_some_and(|compared| {
        let compared = compared.trim_end().trim_end_matches(" not");
        compared
            .trim_end_matches(['\'', '"', ']'])
            .ends_with("role")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_a_role_is_compared_with() {
        let cases: [(&str, &[&str]); 9] = [
            ("{% if m.role == 'function' %}", &["function"]),
            ("{% if m['role'] == \"observation\" %}", &["observation"]),
            (
                "{% if role in ['tool', 'function', \"ipython\"] %}",
                &["function", "ipython"],
            ),
            ("{% if m.role not in ('ipython',) %}", &["ipython"]),
            ("{% if m['role'] not in ('ipython',) %}", &["ipython"]),
            ("{% if m.role != 'ipython' %}", &["ipython"]),
            // compares calls, not roles
            (
                "{% if call.type == 'function' %}{{ call['function'].name }}",
                &[],
            ),
            ("{% if 'function' in call %}", &[]),
            ("<|{{ m.role }}|>", &[]),
        ];
        for (source, right) in cases {
            assert_eq!(known(source), right, "{source}");
        }
    }
}
