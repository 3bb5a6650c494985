//! The options of every command: which cache, how much is said. With them goes what this program does with networks.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use crate::cli::networks::Networks;
use crate::cli::terminal::output::tell;
use crate::engine::inputs::sources::home_expanded;

/// What every command takes.
#[derive(Args)]
pub struct Global {
    /// The folder of cached artifacts [env: LORAMILL_CACHE]
    #[arg(long, global = true, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Print only errors
    #[arg(short, long, global = true)]
    quiet: bool,
    /// What this program does with networks; `None` if it leaves that to another.
    #[arg(skip)]
    networks: Option<&'static Networks>,
}

impl Global {
    /// The cache that the user asks for, if any.
    pub fn cache(&self) -> Option<PathBuf> {
        let from_environment = || std::env::var_os("LORAMILL_CACHE").filter(|dir| !dir.is_empty()).map(PathBuf::from);
        let asked = self.cache.clone().or_else(from_environment)?;
        // A shell leaves the `~` of `--cache=~/x` as it is.
        let home = std::env::var("HOME").ok();
        Some(asked.to_str().map(|text| home_expanded(text, home.as_deref())).unwrap_or(asked))
    }

    /// As on a command line.
    pub fn written(&self) -> Vec<OsString> {
        let cache = self.cache.iter().flat_map(|cache| ["--cache".into(), cache.clone().into()]);
        cache.chain(self.quiet.then(|| "--quiet".into())).collect()
    }

    /// Says what this program does with networks itself.
    pub const fn set_networks(&mut self, networks: Option<&'static Networks>) {
        self.networks = networks;
    }

    /// What this program does with networks; `None` if it leaves that to another.
    pub const fn networks(&self) -> Option<&'static Networks> {
        self.networks
    }

    /// What computes on a device, for people; nothing in a program that opens no networks.
    pub fn describe_device(&self, device: &str) -> Option<String> {
        self.networks.map(|networks| (networks.describe_device)(device))
    }

    /// Whether `--quiet` was given: standard error then has only errors. Standard output stays the same.
    pub const fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// A line for the user, on stderr; kept back by `--quiet`.
    pub fn say(&self, line: &str) {
        if !self.quiet {
            tell(&format!("{line}\n"));
        }
    }
}
