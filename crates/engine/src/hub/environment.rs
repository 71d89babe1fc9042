//! What the environment says about the hub, read as huggingface_hub reads it, so that both tools
//! use one cache, one token and one idea of being offline.

use std::path::PathBuf;

/// The environment's word.
#[derive(Debug)]
pub(super) struct Environment {
    /// The folder of `models--org--name`.
    pub cache: PathBuf,
    /// The hub's address, without a slash at its end.
    pub endpoint: String,
    /// No network is to be used.
    pub offline: bool,
    token: Option<String>,
    token_file: PathBuf,
}

impl Environment {
    /// `var` answers a variable's value.
    pub fn of(var: &dyn Fn(&str) -> Option<String>) -> Environment {
        let home = || {
            let cache = var("XDG_CACHE_HOME").unwrap_or_else(|| "~/.cache".into());
            format!("{cache}/huggingface")
        };
        let home = PathBuf::from(expanded(&var("HF_HOME").unwrap_or_else(home), var));
        let cache = var("HF_HUB_CACHE").or_else(|| var("HUGGINGFACE_HUB_CACHE"));
        let given = |name: &str| var(name).filter(|text| !text.is_empty());
        let endpoint = given("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        let offline = given("HF_HUB_OFFLINE").or_else(|| given("TRANSFORMERS_OFFLINE"));
        Environment {
            cache: cache.map_or(home.join("hub"), |text| expanded(&text, var).into()),
            endpoint: endpoint.trim_end_matches('/').to_string(),
            offline: offline.is_some_and(|text| is_true(&text)),
            token: given("HF_TOKEN").or_else(|| given("HUGGING_FACE_HUB_TOKEN")),
            token_file: match var("HF_TOKEN_PATH") {
                Some(path) => expanded(&path, var).into(),
                None => home.join("token"),
            },
        }
    }

    /// The variable's token, or else what logging in has left.
    pub fn token(&self) -> Option<String> {
        let kept = || std::fs::read_to_string(&self.token_file).ok();
        let token = self.token.clone().or_else(kept)?;
        Some(token.trim().to_string()).filter(|text| !text.is_empty())
    }
}

fn is_true(text: &str) -> bool {
    ["1", "ON", "YES", "TRUE"].contains(&text.to_uppercase().as_str())
}

/// A path with `~`, `$NAME` and `${NAME}` replaced; a variable that is not set stays as it is
/// written.
fn expanded(path: &str, var: &dyn Fn(&str) -> Option<String>) -> String {
    let home = || var("HOME").or_else(|| var("USERPROFILE"));
    let mut rest = path;
    let mut out = String::new();
    if let Some(below) = path.strip_prefix('~')
        && (below.is_empty() || below.starts_with('/'))
        && let Some(home) = home()
    {
        out.push_str(home.trim_end_matches('/'));
        rest = below;
    }
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let (name, end) = match after.strip_prefix('{') {
            Some(inner) => match inner.find('}') {
                Some(n) => (&inner[..n], n + 2),
                None => ("", 0),
            },
            None => {
                let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
                let n = after.find(|c: char| !plain(c)).unwrap_or(after.len());
                (&after[..n], n)
            }
        };
        match var(name).filter(|_| !name.is_empty()) {
            Some(value) => out.push_str(&value),
            None => out.push_str(&rest[at..at + 1 + end]),
        }
        rest = &after[end..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(vars: &[(&str, &str)]) -> Environment {
        let found = |name: &str| {
            let at = vars.iter().find(|(n, _)| *n == name);
            at.map(|(_, value)| value.to_string())
        };
        Environment::of(&found)
    }

    /// Right values: huggingface_hub 2.4.0's constants HF_HUB_CACHE, ENDPOINT and HF_HUB_OFFLINE in
    /// a process with these variables.
    #[test]
    fn variables_mean_what_they_mean_to_python() {
        let cache = |vars: &[(&str, &str)]| with(vars).cache.display().to_string();
        let home = ("HOME", "/h");
        assert_eq!(cache(&[home]), "/h/.cache/huggingface/hub");
        assert_eq!(
            cache(&[home, ("XDG_CACHE_HOME", "/x")]),
            "/x/huggingface/hub"
        );
        assert_eq!(cache(&[home, ("HF_HOME", "/hf")]), "/hf/hub");
        assert_eq!(cache(&[home, ("HF_HOME", "~/hf")]), "/h/hf/hub");
        assert_eq!(cache(&[home, ("HF_HOME", "$HOME/a${HOME}")]), "/h/a/h/hub");
        assert_eq!(cache(&[home, ("HF_HOME", "/a/$NONE/b")]), "/a/$NONE/b/hub");
        assert_eq!(cache(&[home, ("HF_HOME", "/a/${x")]), "/a/${x/hub");
        let both = [("HF_HOME", "/hf"), ("HUGGINGFACE_HUB_CACHE", "/old")];
        assert_eq!(cache(&both), "/old");
        let all = [both[0], both[1], ("HF_HUB_CACHE", "~/new"), home];
        assert_eq!(cache(&all), "/h/new");

        let endpoint = |vars: &[(&str, &str)]| with(vars).endpoint;
        assert_eq!(endpoint(&[]), "https://huggingface.co");
        assert_eq!(endpoint(&[("HF_ENDPOINT", "http://m/hf//")]), "http://m/hf");

        let offline = |vars: &[(&str, &str)]| with(vars).offline;
        for yes in ["1", "true", "True", "YES", "on"] {
            assert!(offline(&[("HF_HUB_OFFLINE", yes)]), "{yes}");
        }
        for no in ["", "0", "false", "y", "2"] {
            assert!(!offline(&[("HF_HUB_OFFLINE", no)]), "{no}");
        }
        let transformers = ("TRANSFORMERS_OFFLINE", "1");
        assert!(offline(&[("HF_HUB_OFFLINE", ""), transformers]));
        assert!(!offline(&[("HF_HUB_OFFLINE", "0"), transformers]));
    }
}
