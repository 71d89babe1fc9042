//! Words of a command line, as a shell takes them.

/// An argument as a shell takes it: quoted where it would take it apart.
pub fn quoted(argument: &str) -> String {
    let path = |c: char| cfg!(windows) && c == '\\';
    let plain = |c: char| c.is_alphanumeric() || "_-./:=@%+,".contains(c) || path(c);
    match !argument.is_empty() && argument.chars().all(plain) {
        true => argument.to_string(),
        false => format!("'{}'", argument.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_shell_would_take_apart_is_quoted() {
        for (argument, want) in [
            ("runs/mine-2", "runs/mine-2"),
            ("train.lr=1e-4", "train.lr=1e-4"),
            ("eval.seeds=[1, 2]", "'eval.seeds=[1, 2]'"),
            ("it's", r"'it'\''s'"),
            ("", "''"),
            ("$HOME", "'$HOME'"),
        ] {
            assert_eq!(quoted(argument), want);
        }
    }
}
