//! Names in a hub repository: which are whole commits, which stay below their folder, and how an
//! address spells them.

use std::path::{Component, Path};

/// A whole commit hash, which means the same bytes for ever.
pub fn is_commit(revision: &str) -> bool {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    revision.len() == 40 && revision.bytes().all(hex)
}

/// A relative name that stays below its folder and means the same in an address.
pub(super) fn is_plain(name: &str) -> bool {
    is_inside(name) && !name.contains(['#', '?', '%'])
}

/// A relative name that stays below its folder.
pub(super) fn is_inside(name: &str) -> bool {
    !name.is_empty()
        && !name.contains('\\')
        && Path::new(name)
            .components()
            .all(|part| matches!(part, Component::Normal(_)))
}

/// A file's name as an address spells it, as huggingface_hub does: what is no letter, digit or one
/// of `-._~/` by its bytes.
pub(super) fn encoded(name: &str) -> String {
    let spell = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
            char::from(byte).to_string()
        }
        other => format!("%{other:02X}"),
    };
    name.bytes().map(spell).collect()
}
