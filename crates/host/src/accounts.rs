//! Whether the group that may write a file is its owner alone, as /etc/passwd and /etc/group say.
//!
//! Many systems give each user a group of the user's own, and with it the umask 002 (Fedora,
//! openSUSE, Debian on request): then every new file is writable by its group, and nobody gains by
//! it.

use std::path::Path;

/// Whether only the owner of `path` is in its group: the group is the owner's primary one, no other
/// account has it, and no access list lets anybody else in. `false` where that cannot be known: of
/// an account or a group that the two files do not list, and on other systems than Linux.
///
/// What a directory server adds to a group that /etc/group lists is not seen.
#[cfg(target_os = "linux")]
pub fn group_is_owners_alone(path: &Path) -> bool {
    use std::{fs, os::unix::fs::MetadataExt};
    let read = |list: &str| {
        let bytes = fs::read(list).unwrap_or_default(); // a name may be Latin-1
        String::from_utf8_lossy(&bytes).into_owned()
    };
    fs::metadata(path).is_ok_and(|meta| {
        let (passwd, group) = (read("/etc/passwd"), read("/etc/group"));
        is_alone(meta.uid(), meta.gid(), &passwd, &group) && has_no_access_list(path)
    })
}

/// Whether only the owner of `path` is in its group: not known on this system.
#[cfg(not(target_os = "linux"))]
pub fn group_is_owners_alone(_path: &Path) -> bool {
    false
}

/// With an access list the group's bits of a mode are the most that anybody on the list may do.
#[cfg(target_os = "linux")]
fn has_no_access_list(path: &Path) -> bool {
    use rustix::{fs::getxattr_query, io::Errno};
    let list = getxattr_query(path, "system.posix_acl_access");
    matches!(list, Err(Errno::NODATA | Errno::NOTSUP))
}

/// [`group_is_owners_alone`] of a file of this user and group, by the texts of the two files.
#[cfg(any(target_os = "linux", test))]
fn is_alone(uid: u32, gid: u32, passwd: &str, group: &str) -> bool {
    // NIS: a line that begins so adds accounts that are listed elsewhere
    if [passwd, group]
        .iter()
        .any(|list| list.lines().any(|line| line.starts_with('+')))
    {
        return false;
    }
    let accounts: Vec<Account> = passwd.lines().filter_map(Account::read).collect();
    let (own, others): (Vec<&Account>, Vec<&Account>) =
        accounts.iter().partition(|account| account.uid == uid);
    let in_it = |account: &&Account| account.gid == gid;
    let members: Vec<&str> = group
        .lines()
        .filter_map(|line| members(line, gid))
        .collect();
    let mut named = members
        .iter()
        .flat_map(|list| list.split(','))
        .map(str::trim);
    own.iter().any(in_it)
        && !others.iter().any(in_it)
        && !members.is_empty()
        && named.all(|name| name.is_empty() || own.iter().any(|account| account.name == name))
}

/// A line of /etc/passwd: `name:password:uid:gid:…`, where the group is the primary one.
#[cfg(any(target_os = "linux", test))]
struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
}

#[cfg(any(target_os = "linux", test))]
impl Account<'_> {
    fn read(line: &str) -> Option<Account<'_>> {
        let mut fields = line.split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        Some(Account {
            name,
            uid: fields.next()?.parse().ok()?,
            gid: fields.next()?.parse().ok()?,
        })
    }
}

/// The members that a line of /etc/group lists (`name:password:gid:member,member`), if it is of
/// this group.
#[cfg(any(target_os = "linux", test))]
fn members(line: &str, gid: u32) -> Option<&str> {
    let mut fields = line.split(':').skip(2);
    let own = fields.next()?.parse::<u32>().ok()? == gid;
    fields.next().filter(|_| own)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n\
                          # a comment\n\
                          daemon:x:2:2:daemon:/sbin:/sbin/nologin\n\
                          ann:x:1000:1000:Ann:/home/ann:/bin/bash\n\
                          ben:x:1001:1001:Ben:/home/ben:/bin/bash\n\
                          cat:x:1002:100::/home/cat:/bin/sh\n\
                          ann2:x:1000:1000:Ann:/home/ann:/bin/zsh\n";
    const GROUP: &str = "root:x:0:\n\
                         daemon:x:2:\n\
                         users:x:100:\n\
                         ann:x:1000:ann\n\
                         ben:x:1001:ann\n\
                         wheel:x:10:ann\n";

    fn alone(uid: u32, gid: u32) -> bool {
        is_alone(uid, gid, PASSWD, GROUP)
    }

    #[test]
    fn a_group_is_its_owners_alone_if_nobody_else_is_in_it() {
        assert!(
            alone(1000, 1000),
            "its owner, listed as a member too, under either name"
        );
        assert!(alone(0, 0) && alone(2, 2) && alone(1002, 100));
        assert!(!alone(1001, 1001), "ann is a member");
        assert!(!alone(1000, 10), "not ann's primary group");
        assert!(!alone(1001, 1000), "another's file in ann's group");
        assert!(!alone(1000, 100), "cat's primary group");
        assert!(!alone(4321, 4321), "neither is listed");
    }

    #[test]
    fn anybody_else_in_it_counts() {
        let with = |passwd: &str, group: &str| {
            let (passwd, group) = (format!("{PASSWD}{passwd}\n"), format!("{GROUP}{group}\n"));
            is_alone(1000, 1000, &passwd, &group)
        };
        assert!(with("", ""));
        assert!(
            !with("eve:x:1003:1000::/home/eve:/bin/sh", ""),
            "by her primary group"
        );
        assert!(
            !with("", "also:x:1000:eve"),
            "by a second name of the group"
        );
        assert!(!with("", "also:x:1000:ann,eve"));
        assert!(with("", "also:x:1000:ann,ann2"));
        assert!(
            !with("+::::::", "") && !with("", "+:::"),
            "NIS may list anybody"
        );
        assert!(
            with("eve:x:1003", "broken:x:1000"),
            "no entry: login ignores it too"
        );
    }

    #[test]
    fn a_group_that_is_not_listed_is_unknown() {
        let group = GROUP.replace("ann:x:1000:ann\n", "");
        assert!(!is_alone(1000, 1000, PASSWD, &group));
        assert!(!is_alone(1000, 1000, "", GROUP), "nor an account");
        assert!(!is_alone(1000, 1000, "", ""));
    }
}
