//! The host keys that this tunnel itself has accepted.
//!
//! A job outlives a ticket for the home directory, and a file system that is being
//! mounted anew: when the gateway comes back meanwhile, known_hosts cannot say what
//! it said at the start. Then that still holds, and nothing new is believed.

use super::known_hosts::KeyFile;
use crate::error::cause;
use std::path::PathBuf;

/// Keys that were accepted, and the files that could be read then.
#[derive(Debug, Default)]
pub struct AcceptedKeys {
    /// With the name under which the files know their gateway.
    keys: Vec<(String, Vec<u8>)>,
    files: Vec<PathBuf>,
}

impl AcceptedKeys {
    /// Whether that key of the gateway `name` was.
    pub fn has(&self, name: &str, key: &[u8]) -> bool {
        self.keys.iter().any(|(known, accepted)| known == name && accepted == key)
    }

    /// It is accepted.
    pub fn add(&mut self, name: &str, key: &[u8]) {
        if !self.has(name, key) {
            self.keys.push((name.to_owned(), key.to_owned()));
        }
    }

    /// With these files somebody has been let in.
    pub fn seen(&mut self, files: &[KeyFile]) {
        for file in files.iter().filter(|file| file.text.is_ok()) {
            if !self.files.contains(&file.path) {
                self.files.push(file.path.clone());
            }
        }
    }

    /// Which file could be read before and cannot be read now, and why not. While that
    /// is so, nobody knows whether a key is unknown.
    pub fn missing(&self, files: &[KeyFile]) -> Option<String> {
        files.iter().filter(|file| self.files.contains(&file.path)).find_map(|file| {
            let why = file.text.as_ref().err()?;
            Some(format!("{} cannot be read now ({})", file.path.display(), cause(why)))
        })
    }
}
