//! Bearer keys: who may do what.
//!
//! Only SHA-256 hashes of keys are configured and held. A key is 32 random bytes or so, so that its plain hash is safe.
//!
//! Invariant: how long an authentication takes depends on the number of keys, not on which one matches.

use std::collections::BTreeSet;
use std::sync::Arc;

use interdict_features::config::{ConfigFile, Problems, Section};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

/// How many keys are taken at most: each costs a comparison per request.
pub const KEYS_MAX: usize = 1024;

/// What a key may be used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Ask for decisions.
    Decide,
    /// Read decisions, entities, lists, models and metrics.
    Read,
    /// Report labels.
    Label,
    /// Change lists.
    Admin,
}

impl Role {
    const ALL: [Self; 4] = [Self::Decide, Self::Read, Self::Label, Self::Admin];

    /// As it is written in the keys file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Decide => "decide",
            Self::Read => "read",
            Self::Label => "label",
            Self::Admin => "admin",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// One key: its name, its hash and its roles. No role contains another.
#[derive(Clone, Debug)]
struct Key {
    name: Arc<str>,
    digest: [u8; 32],
    roles: u8,
}

/// All keys that are accepted.
///
/// ```toml
/// [[key]]
/// name = "checkout"
/// sha256 = "2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683"  # printf %s "$KEY" | sha256sum
/// roles = ["decide", "read"]
/// ```
#[derive(Clone, Debug, Default)]
pub struct Keyring {
    keys: Vec<Key>,
}

/// A key that was presented and is known.
#[derive(Clone, Debug)]
pub(super) struct Holder {
    pub(super) name: Arc<str>,
    roles: u8,
}

impl Holder {
    /// Whether it has the role.
    pub(super) fn has(&self, role: Role) -> bool {
        self.roles & role.bit() != 0
    }
}

impl Keyring {
    /// Reads keys from TOML; `name` is what the operator knows the text as.
    ///
    /// # Errors
    /// Every mistake at once. No message holds a hash.
    pub fn parse(name: &str, source: &str) -> Result<Self, Problems> {
        let file = ConfigFile::parse(name, source)?;
        let sections = file.array("key");
        if sections.is_empty() {
            file.report(None, "no keys", "add [[key]] with name, sha256 and roles");
        }
        if sections.len() > KEYS_MAX {
            file.report(None, format!("{} keys", sections.len()), format!("{KEYS_MAX} are taken at most"));
        }
        let mut names = BTreeSet::new();
        let mut keys = Vec::new();
        for section in sections {
            if let Some(key) = read_key(&section) {
                if !names.insert(Arc::clone(&key.name)) {
                    section.report("name", "two keys have this name", "names stand in the audit log; make them differ");
                }
                keys.push(key);
            }
            section.finish();
        }
        file.finish()?;
        Ok(Self { keys })
    }

    /// Whether there are no keys.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The holder of a presented key.
    pub(super) fn holder(&self, presented: &[u8]) -> Option<Holder> {
        let digest: [u8; 32] = Sha256::digest(presented).into();
        let mut found = u32::MAX;
        for (index, key) in (0_u32..).zip(&self.keys) {
            let is_equal: Choice = key.digest.ct_eq(&digest);
            found.conditional_assign(&index, is_equal);
        }
        let key = self.keys.get(usize::try_from(found).ok()?)?;
        Some(Holder { name: Arc::clone(&key.name), roles: key.roles })
    }
}

fn read_key(section: &Section<'_>) -> Option<Key> {
    section.require("name", "\"checkout\"");
    section.require("sha256", "\"64 hex digits\"");
    section.require("roles", "[\"decide\"]");
    let name = section.text("name").filter(|name| {
        let is_sane = !name.is_empty() && name.len() <= 64 && name.chars().all(|c| c.is_ascii_graphic());
        if !is_sane {
            section.report("name", "a key's name is not usable", "write 1 to 64 visible ASCII characters");
        }
        is_sane
    });
    let digest = section.text("sha256").and_then(|hex| {
        let digest = digest_of_hex(&hex);
        if digest.is_none() {
            section.report("sha256", "not a SHA-256", "write 64 hex digits: printf %s \"$KEY\" | sha256sum");
        }
        digest
    });
    let mut roles = 0;
    for role in section.texts("roles").unwrap_or_default() {
        match Role::ALL.into_iter().find(|known| known.name() == role.value) {
            Some(known) => roles |= known.bit(),
            None => section.file().report(
                role.span,
                format!("'{}' is no role", role.value),
                "write one or more of: decide, read, label, admin",
            ),
        }
    }
    if roles == 0 && section.has("roles") {
        section.report("roles", "a key without roles", "write one or more of: decide, read, label, admin");
    }
    Some(Key { name: name?.into(), digest: digest?, roles })
}

fn digest_of_hex(hex: &str) -> Option<[u8; 32]> {
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = u8::try_from(high * 16 + low).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(key: &str) -> String {
        Sha256::digest(key.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn a_key_is_known_by_its_hash_and_has_only_its_roles() {
        let source = format!(
            "[[key]]\nname = \"a\"\nsha256 = \"{}\"\nroles = [\"decide\", \"label\"]\n\
             [[key]]\nname = \"b\"\nsha256 = \"{}\"\nroles = [\"admin\"]\n",
            hex("secret-a"),
            hex("secret-b").to_uppercase()
        );
        let keys = Keyring::parse("keys.toml", &source).unwrap();
        let a = keys.holder(b"secret-a").unwrap();
        assert_eq!(&*a.name, "a");
        assert_eq!(Role::ALL.map(|role| a.has(role)), [true, false, true, false]);
        let b = keys.holder(b"secret-b").unwrap();
        assert_eq!(Role::ALL.map(|role| b.has(role)), [false, false, false, true]);
        for wrong in ["", "secret-", "secret-aa", &hex("secret-a")] {
            assert!(keys.holder(wrong.as_bytes()).is_none(), "{wrong}");
        }
        assert!(Keyring::default().holder(b"").is_none());
    }

    #[test]
    fn every_mistake_is_told_at_once_and_none_shows_a_hash() {
        let source = format!(
            "[[key]]\nname = \"a\"\nsha256 = \"{0}x\"\nroles = [\"decide\"]\n\
             [[key]]\nname = \"b c\"\nsha256 = \"{0}\"\nroles = [\"boss\"]\n\
             [[key]]\nrolls = []\n",
            hex("k")
        );
        let problems = Keyring::parse("keys.toml", &source).unwrap_err();
        let text = problems.to_string();
        for part in ["not a SHA-256", "name is not usable", "'boss' is no role", "no 'name'", "no 'sha256'", "'rolls'"]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains(&hex("k")), "{text}");
        assert!(Keyring::parse("keys.toml", "").unwrap_err().to_string().contains("no keys"));
    }
}
