//! Where facts of a computer are read: files below a root folder, an environment, and what the kernel answers. Of a recorded computer all three
//! come from a folder. Does not know what any of them means.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, Mode, OFlags};
use rustix::process::{Resource, getegid, getgroups, getrlimit, getuid};

/// No file that is read whole is longer; `/proc/cpuinfo` of 500 threads has less than 1 MB.
const LONGEST: u64 = 8 << 20;

/// Magic numbers of file systems on other computers: `linux/magic.h` and the clients' own headers. NFS, SMB, CIFS, AFS, Ceph, Lustre, GPFS,
/// BeeGFS, 9P.
const NETWORK_FILE_SYSTEMS: &[u64] =
    &[0x6969, 0xfe53_4d42, 0xff53_4d42, 0x5346_414f, 0x00c3_6400, 0x0bd0_0bd0, 0x4750_4653, 0x1983_0326, 0x0102_1997];

/// A computer to look at.
pub struct Host {
    root: PathBuf,
    environment: BTreeMap<String, String>,
    kernel: Box<dyn Kernel>,
    /// Libraries of the process that computes, where that is another than this one.
    loaded: Option<Vec<String>>,
}

/// What is asked of the kernel rather than read in a file.
pub trait Kernel {
    /// The user whose process this is.
    fn user(&self) -> u32;
    /// The groups that this process is in, the primary one among them: those at login, which `/etc/group` may have outgrown.
    fn groups(&self) -> Vec<u32>;
    /// A device file, and whether this process may read and write it; `None` if there is none.
    fn device(&self, path: &Path) -> Option<DeviceFile>;
    /// The file system of a path, or of the nearest folder above it that exists.
    fn space(&self, path: &Path) -> Option<Space>;
    /// Files that may be open at a time; `None` without a limit.
    fn most_open_files(&self) -> Option<u64>;
    /// Bytes that may be kept from being swapped; `None` without a limit.
    fn most_locked_bytes(&self) -> Option<u64>;
}

/// A file of `/dev`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceFile {
    pub group: u32,
    /// Permission bits, as in `0o660`.
    pub mode: u32,
    pub opened: Opened,
}

/// How opening for reading and writing ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    Yes,
    /// EACCES or EPERM.
    Denied,
    /// In the kernel's words.
    Failed(String),
}

/// A file system, as seen from a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes that this user may still fill.
    pub free: u64,
    pub total: u64,
    /// On another computer.
    pub is_network: bool,
    /// Whether this user may write to the folder.
    pub is_writable: bool,
}

impl Host {
    /// The computer that this program runs on.
    pub fn this() -> Self {
        let environment =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Self { root: PathBuf::from("/"), environment: environment.collect(), kernel: Box::new(RunningKernel), loaded: None }
    }

    /// A recorded computer, whose `/` is `root`.
    pub const fn recorded(root: PathBuf, environment: BTreeMap<String, String>, kernel: Box<dyn Kernel>) -> Self {
        Self { root, environment, kernel, loaded: None }
    }

    /// The same, where another process computes, which loads the libraries with these paths.
    pub fn with_loaded(self, loaded: Vec<String>) -> Self {
        Self { loaded: Some(loaded), ..self }
    }

    /// Paths of the files that the process which computes has loaded.
    pub fn loaded(&self) -> Vec<String> {
        let mapped = || {
            // `7f12a000-7f34b000 r-xp 00000000 fd:01 1234   /opt/libtorch/lib/libtorch_cpu.so`
            let maps = self.text("/proc/self/maps").unwrap_or_default();
            maps.lines().filter_map(|line| line.split_whitespace().nth(5)).map(str::to_string).collect()
        };
        self.loaded.clone().unwrap_or_else(mapped)
    }

    /// Answers to what no file tells. A recorded computer brings answers of its own.
    pub fn kernel(&self) -> &dyn Kernel {
        self.kernel.as_ref()
    }

    /// A variable of the environment; empty ones are there too.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(name).map(String::as_str)
    }

    /// A variable that is not empty.
    pub fn filled_variable(&self, name: &str) -> Option<&str> {
        self.variable(name).filter(|value| !value.is_empty())
    }

    /// All of the environment. Variables whose name or value is not UTF-8 are missing.
    pub const fn variables(&self) -> &BTreeMap<String, String> {
        &self.environment
    }

    /// The folders of a variable such as `PATH`.
    pub fn folders_in(&self, variable: &str) -> Vec<PathBuf> {
        let folders = self.variable(variable).into_iter().flat_map(std::env::split_paths);
        folders.filter(|folder| folder.is_absolute()).collect()
    }

    /// Where a path of the computer lies on this one.
    pub fn place(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join(path.as_ref().strip_prefix("/").unwrap_or(path.as_ref()))
    }

    /// False also where it cannot be seen. Links are followed.
    pub fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.place(path).exists()
    }

    /// False also where it cannot be seen. A link to a folder is one.
    pub fn is_folder(&self, path: impl AsRef<Path>) -> bool {
        self.place(path).is_dir()
    }

    /// A text file without the space around it; `None` if it cannot be read, as with attributes that a driver does not have.
    pub fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        let mut bytes = Vec::new();
        fs::File::open(self.place(path)).ok()?.take(LONGEST).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).trim().to_string())
    }

    /// A file that holds one number, decimal or `0x` hexadecimal.
    pub fn number(&self, path: impl AsRef<Path>) -> Option<u64> {
        let text = self.text(path)?;
        match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        }
    }

    /// Names in a folder, sorted; none if it cannot be read.
    pub fn list(&self, folder: impl AsRef<Path>) -> Vec<String> {
        let entries = fs::read_dir(self.place(folder)).into_iter().flatten();
        let mut names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        names.sort();
        names
    }
}

/// The kernel below this process.
pub struct RunningKernel;

impl Kernel for RunningKernel {
    fn user(&self) -> u32 {
        getuid().as_raw()
    }

    fn groups(&self) -> Vec<u32> {
        let mut groups: Vec<u32> = getgroups().unwrap_or_default().into_iter().map(rustix::fs::Gid::as_raw).collect();
        groups.push(getegid().as_raw());
        groups.sort_unstable();
        groups.dedup();
        groups
    }

    fn device(&self, path: &Path) -> Option<DeviceFile> {
        let found = rustix::fs::stat(path).ok()?;
        let opened = match rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty()) {
            Ok(_) => Opened::Yes,
            Err(error) if io::Error::from(error).kind() == io::ErrorKind::PermissionDenied => Opened::Denied,
            Err(error) => Opened::Failed(error.to_string()),
        };
        Some(DeviceFile { group: found.st_gid, mode: found.st_mode & 0o777, opened })
    }

    fn space(&self, path: &Path) -> Option<Space> {
        let folder = path.ancestors().find(|above| above.is_dir())?;
        let found = rustix::fs::statfs(folder).ok()?;
        let block = u64::try_from(found.f_bsize).ok()?;
        Some(Space {
            free: found.f_bavail.saturating_mul(block),
            total: found.f_blocks.saturating_mul(block),
            is_network: NETWORK_FILE_SYSTEMS.contains(&(found.f_type as u64 & 0xffff_ffff)),
            is_writable: rustix::fs::access(folder, Access::WRITE_OK).is_ok(),
        })
    }

    fn most_open_files(&self) -> Option<u64> {
        getrlimit(Resource::Nofile).current
    }

    fn most_locked_bytes(&self) -> Option<u64> {
        getrlimit(Resource::Memlock).current
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_computer_answers() {
        let host = Host::this();
        assert!(host.text("/proc/meminfo").unwrap().starts_with("MemTotal:"));
        assert!(host.kernel().groups().contains(&getegid().as_raw()));
        assert_eq!(host.kernel().device(Path::new("/dev/null")).unwrap().opened, Opened::Yes);
        assert_eq!(host.kernel().device(Path::new("/dev/no-such-device")), None);
        let temp = tempfile::tempdir().unwrap();
        let space = host.kernel().space(&temp.path().join("not/there/yet")).unwrap();
        assert!(space.is_writable && space.total >= space.free && space.total > 0);
        assert!(host.kernel().space(Path::new("/proc")).unwrap().total == 0);
    }

    #[test]
    fn a_recorded_computer_is_read_below_its_folder() {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir_all(temp.path().join("sys/class")).unwrap();
        fs::write(temp.path().join("sys/class/a"), "0x1002\n").unwrap();
        let environment = BTreeMap::from([("PATH".to_string(), "/usr/bin:relative:/bin".to_string())]);
        let host = Host::recorded(temp.path().to_path_buf(), environment, Box::new(RunningKernel));
        assert_eq!(host.number("/sys/class/a"), Some(0x1002));
        assert_eq!(host.list("/sys/class"), ["a"]);
        assert_eq!(host.list("/sys/none"), [""; 0]);
        assert!(!host.exists("/proc/meminfo"));
        assert_eq!(host.folders_in("PATH"), [Path::new("/usr/bin"), Path::new("/bin")]);
    }
}
