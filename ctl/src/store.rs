//! Where the configuration survives: one file, `config.json` in the state directory.
//!
//! A save is durable when it returns: a temporary file is written and synced, renamed over the old one,
//! and the directory synced. A crash at any point leaves the old or the new configuration, never a
//! mixture. The file carries a version and a CRC-32 of the configuration's own text; a file that does
//! not fit is damaged, is set aside under a name that was free, and is never overwritten. One process
//! at a time may use a [`Store`]: the caller holds the [`crate::lock`] of the directory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::config::Config;
use crate::error::CtlError;

/// The version of the file's form. A higher one in a file was written by a newer switch.
const VERSION: u32 = 1;
const FILE: &str = "config.json";
const TEMPORARY: &str = "config.json.new";
/// Largest file that is read, bytes.
const SIZE_LIMIT: u64 = 256 << 20;
/// How many damaged files are kept aside before an operator has to look.
const ASIDE_LIMIT: u32 = 1000;

/// The file as it is written.
#[derive(Serialize)]
struct Written<'a> {
    version: u32,
    crc32: String,
    config: &'a RawValue,
}

/// The file as it is read: the configuration stays text until its checksum is known to be right.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    crc32: String,
    config: Box<RawValue>,
}

/// What was found at start.
#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    /// Set when the stored file was damaged: why, and where it is now.
    pub damaged: Option<Damage>,
}

/// A state file that could not be used.
#[derive(Debug)]
pub struct Damage {
    pub reason: String,
    pub aside: PathBuf,
}

/// The state directory.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// Uses `dir`, which must exist and be locked by the caller.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    pub fn path(&self) -> PathBuf {
        self.dir.join(FILE)
    }

    /// Reads the stored configuration. No file: an empty one. A damaged file is set aside and the
    /// configuration is empty. Errors: the file cannot be read or set aside, or is of a newer version.
    pub fn load(&self) -> Result<Loaded, CtlError> {
        // What a crash left of a save that was never acknowledged.
        let _ = fs::remove_file(self.dir.join(TEMPORARY));
        let text = match self.read() {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Ok(Loaded { config: Config::default(), damaged: None });
            }
            Err(e) => return Err(self.failed("read", &self.path(), &e)),
        };
        match decode(&text) {
            Ok(config) => Ok(Loaded { config, damaged: None }),
            Err(Unusable::Newer(version)) => Err(CtlError::unsupported(format!(
                "{} has version {version}, written by a newer vswitchd; this one reads up to {VERSION}",
                self.path().display()
            ))
            .with_hint("start the newer vswitchd, or move the file away to start empty")),
            Err(Unusable::Damaged(reason)) => {
                let aside = self.set_aside()?;
                Ok(Loaded { config: Config::default(), damaged: Some(Damage { reason, aside }) })
            }
        }
    }

    /// Stores `config` durably.
    pub fn save(&self, config: &Config) -> Result<(), CtlError> {
        let text = encode(config)?;
        let temporary = self.dir.join(TEMPORARY);
        let written = self.write(&temporary, &text);
        if let Err(e) = written {
            let _ = fs::remove_file(&temporary);
            return Err(self.failed("write", &temporary, &e));
        }
        self.publish(&temporary).map_err(|e| self.failed("replace", &self.path(), &e))
    }

    fn write(&self, temporary: &Path, text: &str) -> io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file =
            options.write(true).create(true).truncate(true).mode(0o640).open(temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    }

    fn publish(&self, temporary: &Path) -> io::Result<()> {
        fs::rename(temporary, self.path())?;
        File::open(&self.dir)?.sync_all()
    }

    fn read(&self) -> io::Result<Vec<u8>> {
        let file = File::open(self.path())?;
        let mut text = Vec::new();
        file.take(SIZE_LIMIT + 1).read_to_end(&mut text)?;
        Ok(text)
    }

    fn set_aside(&self) -> Result<PathBuf, CtlError> {
        let free = (1..=ASIDE_LIMIT)
            .map(|n| self.dir.join(format!("{FILE}.damaged-{n}")))
            .find(|path| fs::symlink_metadata(path).is_err());
        let Some(aside) = free else {
            return Err(CtlError::system(format!(
                "{} is damaged and {ASIDE_LIMIT} damaged files are kept beside it already",
                self.path().display()
            )));
        };
        fs::rename(self.path(), &aside)
            .and_then(|()| File::open(&self.dir)?.sync_all())
            .map_err(|e| self.failed("set aside", &self.path(), &e))?;
        Ok(aside)
    }

    fn failed(&self, what: &str, path: &Path, error: &io::Error) -> CtlError {
        CtlError::system(format!("cannot {what} {}: {error}", path.display()))
    }
}

/// Why a file's text is no configuration.
#[derive(Debug)]
enum Unusable {
    Newer(u32),
    Damaged(String),
}

fn encode(config: &Config) -> Result<String, CtlError> {
    let internal = |e: serde_json::Error| CtlError::internal(format!("configuration as text: {e}"));
    let text = serde_json::to_string_pretty(config).map_err(internal)?;
    let crc32 = format!("{:08x}", crc32(text.as_bytes()));
    let config = RawValue::from_string(text).map_err(internal)?;
    let file = Written { version: VERSION, crc32, config: &config };
    let mut out = serde_json::to_string(&file).map_err(internal)?;
    out.push('\n');
    Ok(out)
}

fn decode(text: &[u8]) -> Result<Config, Unusable> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let damaged = |why: String| Unusable::Damaged(why);
    if text.len() as u64 > SIZE_LIMIT {
        return Err(damaged(format!("larger than {SIZE_LIMIT} bytes")));
    }
    if text.is_empty() {
        return Err(damaged("the file is empty".to_owned()));
    }
    let json = |e: serde_json::Error| Unusable::Damaged(e.to_string());
    let Version { version } = serde_json::from_slice(text).map_err(json)?;
    if version > VERSION {
        return Err(Unusable::Newer(version));
    }
    let stored: Stored = serde_json::from_slice(text).map_err(json)?;
    debug_assert_eq!(stored.version, version);
    let config_text = stored.config.get();
    let found = format!("{:08x}", crc32(config_text.as_bytes()));
    if found != stored.crc32 {
        return Err(damaged(format!(
            "its checksum is {found} and should be {}: it was changed after it was written",
            stored.crc32
        )));
    }
    let mut config: Config = serde_json::from_str(config_text).map_err(json)?;
    config.finish().map_err(|e| damaged(e.to_string()))?;
    Ok(config)
}

/// CRC-32 as of IEEE 802.3 (reflected, polynomial 0x04c11db7), bit by bit: files are small.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Command;

    fn config(bridges: &[&str]) -> Config {
        let mut config = Config::default();
        for name in bridges {
            let add = Command::AddBr {
                bridge: (*name).into(),
                settings: vec!["external_ids:note=\"ü { } \\\\ \"".into()],
                may_exist: false,
            };
            crate::config::apply(&mut config, &add).expect("add");
        }
        config.finish().expect("good");
        config
    }

    fn dir_with(bridges: &[&str]) -> (tempfile::TempDir, Store, Config) {
        let dir = tempfile::tempdir().expect("dir");
        let store = Store::new(dir.path());
        let config = config(bridges);
        store.save(&config).expect("save");
        (dir, store, config)
    }

    #[test]
    fn crc_is_the_known_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn no_file_is_an_empty_configuration() {
        let dir = tempfile::tempdir().expect("dir");
        let loaded = Store::new(dir.path()).load().expect("load");
        assert_eq!(loaded.config, Config::default());
        assert!(loaded.damaged.is_none());
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let (_dir, store, config) = dir_with(&["br0", "br1"]);
        let loaded = store.load().expect("load");
        assert_eq!(loaded.config, config);
        assert!(loaded.damaged.is_none());
    }

    #[test]
    fn a_crash_before_the_rename_leaves_the_old_one() {
        let (dir, store, old) = dir_with(&["br0"]);
        let temporary = dir.path().join(TEMPORARY);
        // Every prefix that a crash may have left of the temporary file, the whole file included.
        let text = encode(&config(&["br1"])).expect("text");
        for cut in [0, 1, text.len() / 2, text.len()] {
            store.write(&temporary, text.get(..cut).unwrap_or_default()).expect("write");
            assert_eq!(store.load().expect("load").config, old);
            assert!(!temporary.exists());
        }
    }

    #[test]
    fn a_crash_after_the_rename_leaves_the_new_one() {
        let (dir, store, _) = dir_with(&["br0"]);
        let new = config(&["br1"]);
        let temporary = dir.path().join(TEMPORARY);
        store.write(&temporary, &encode(&new).expect("text")).expect("write");
        fs::rename(&temporary, store.path()).expect("rename");
        assert_eq!(store.load().expect("load").config, new);
    }

    #[test]
    fn truncated_files_are_set_aside_whole() {
        let (dir, store, _) = dir_with(&["br0"]);
        let text = fs::read(store.path()).expect("read");
        for cut in 0..text.len() - 1 {
            fs::write(store.path(), &text[..cut]).expect("write");
            let loaded = store.load().expect("load");
            assert_eq!(loaded.config, Config::default(), "cut at {cut}");
            let damage = loaded.damaged.expect("damaged");
            assert!(!store.path().exists());
            assert_eq!(fs::read(&damage.aside).expect("aside"), &text[..cut]);
            fs::remove_file(&damage.aside).expect("remove");
        }
        assert_eq!(fs::read_dir(dir.path()).expect("dir").count(), 0);
    }

    #[test]
    fn every_flipped_byte_is_noticed() {
        let (_dir, store, config) = dir_with(&["br0"]);
        let text = fs::read(store.path()).expect("read");
        for at in 0..text.len() - 1 {
            let mut bad = text.clone();
            bad[at] ^= 0x01;
            match decode(&bad) {
                Err(Unusable::Damaged(reason)) => assert!(!reason.is_empty()),
                Err(Unusable::Newer(_)) => {}
                // A flip in the white space around values changes nothing.
                Ok(same) => assert_eq!(same, config, "flip at {at}"),
            }
        }
    }

    #[test]
    fn damaged_files_are_never_overwritten() {
        let (dir, store, _) = dir_with(&["br0"]);
        for n in 1..=3 {
            fs::write(store.path(), format!("rubbish {n}")).expect("write");
            let aside = store.load().expect("load").damaged.expect("damaged").aside;
            assert_eq!(aside, dir.path().join(format!("config.json.damaged-{n}")));
        }
        let first = fs::read_to_string(dir.path().join("config.json.damaged-1"));
        assert_eq!(first.expect("first"), "rubbish 1");
    }

    #[test]
    fn a_file_of_a_newer_switch_stays_and_is_refused() {
        let (_dir, store, _) = dir_with(&["br0"]);
        let text = fs::read_to_string(store.path()).expect("read");
        let newer = text.replace("\"version\":1", "\"version\":2");
        fs::write(store.path(), &newer).expect("write");
        assert!(store.load().expect_err("newer").message.contains("version 2"));
        assert_eq!(fs::read_to_string(store.path()).expect("read"), newer);
    }

    #[test]
    fn a_configuration_that_cannot_be_is_damage() {
        let text = r#"{"bridges":{"a b":{}}}"#;
        let file =
            format!(r#"{{"version":1,"crc32":"{:08x}","config":{text}}}"#, crc32(text.as_bytes()));
        assert!(matches!(decode(file.as_bytes()), Err(Unusable::Damaged(r)) if r.contains("a b")));
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_an_error() {
        let store = Store::new("/nonexistent/state");
        let error = store.save(&Config::default()).expect_err("no directory");
        assert!(error.message.contains("/nonexistent/state/config.json.new"), "{error}");
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_configuration_or_damage(text in "\\{?\"?[ -~]{0,60}", crc in "[0-9a-f]{8}") {
            let _ = decode(text.as_bytes());
            let file = format!(r#"{{"version":1,"crc32":"{crc}","config":{text}}}"#);
            proptest::prop_assert!(decode(file.as_bytes()).is_err());
            // The right checksum over any text: the text itself is judged.
            let file = format!(r#"{{"version":1,"crc32":"{:08x}","config":{text}}}"#, crc32(text.as_bytes()));
            if let Ok(config) = decode(file.as_bytes()) {
                proptest::prop_assert_eq!(config, Config::default());
            }
        }
    }
}
