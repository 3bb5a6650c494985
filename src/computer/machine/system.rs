//! The operating system around a process: kernel, distribution, container, user and groups. Does not know what GPUs want of them.

use crate::computer::machine::host::Host;

/// What is known of the system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct System {
    /// `6.8.0-45-generic`
    pub kernel: String,
    /// `Ubuntu 24.04.1 LTS`
    pub distribution: Option<String>,
    /// What the kernel was started with.
    pub command_line: String,
    /// Linux as a guest of Windows.
    pub is_wsl: bool,
    /// What shows that this is a container.
    pub container: Option<&'static str>,
    pub user: User,
    /// `/etc/group`.
    pub groups: Vec<Group>,
}

/// The user whose process this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub id: u32,
    pub name: Option<String>,
    /// Groups that this process is in: those at login.
    pub groups: Vec<u32>,
}

/// A line of `/etc/group`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub id: u32,
    pub name: String,
    pub members: Vec<String>,
}

impl System {
    /// What cannot be read is empty or `None`, and the kernel `unknown`.
    pub fn read(host: &Host) -> Self {
        let kernel = host.text("/proc/sys/kernel/osrelease").unwrap_or_else(|| "unknown".into());
        let is_wsl = kernel.to_lowercase().contains("microsoft");
        let id = host.kernel().user();
        Self {
            is_wsl,
            kernel,
            distribution: distribution(host),
            command_line: host.text("/proc/cmdline").unwrap_or_default(),
            container: container(host),
            user: User { id, name: user_name(host, id), groups: host.kernel().groups() },
            groups: groups(&host.text("/etc/group").unwrap_or_default()),
        }
    }

    /// A group by number, as people know it.
    pub fn group_name(&self, id: u32) -> String {
        let known = self.groups.iter().find(|group| group.id == id);
        known.map_or_else(|| id.to_string(), |group| group.name.clone())
    }

    /// Whether this process is in a group.
    pub fn is_in_group(&self, id: u32) -> bool {
        self.user.groups.contains(&id)
    }

    /// Whether `/etc/group` has the user in a group: from the next login on the processes are in it.
    pub fn will_be_in_group(&self, id: u32) -> bool {
        let Some(name) = &self.user.name else { return false };
        self.groups.iter().any(|group| group.id == id && group.members.contains(name))
    }

    /// Whether the kernel was told something at its start: `iommu=pt`.
    pub fn was_started_with(&self, word: &str) -> bool {
        self.command_line.split_whitespace().any(|given| given == word)
    }

    /// User 0, who may open device files without being in their group.
    pub fn is_root(&self) -> bool {
        self.user.id == 0
    }
}

fn distribution(host: &Host) -> Option<String> {
    let text = host.text("/etc/os-release").or_else(|| host.text("/usr/lib/os-release"))?;
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(name.trim_matches(['"', '\'']).to_string())
}

/// Docker and Podman leave a file, others a name in the control groups of the first process, systemd and LXC a variable.
fn container(host: &Host) -> Option<&'static str> {
    if host.exists("/.dockerenv") {
        return Some("/.dockerenv");
    }
    if host.exists("/run/.containerenv") {
        return Some("/run/.containerenv");
    }
    let groups = host.text("/proc/1/cgroup").unwrap_or_default();
    if ["docker", "kubepods", "containerd", "libpod", "lxc"].iter().any(|name| groups.contains(name)) {
        return Some("/proc/1/cgroup");
    }
    host.filled_variable("container").map(|_| "the variable `container`")
}

fn user_name(host: &Host, id: u32) -> Option<String> {
    let text = host.text("/etc/passwd").unwrap_or_default();
    let listed = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(id)).then(|| name.to_string())
    });
    // Users of a directory service are in no file.
    listed
        .or_else(|| host.filled_variable("USER").map(str::to_string))
        .or_else(|| host.filled_variable("LOGNAME").map(str::to_string))
}

fn groups(text: &str) -> Vec<Group> {
    let lines = text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_string();
        let id = fields.nth(1)?.parse().ok()?;
        let members = fields.next().unwrap_or("").split(',').filter(|member| !member.is_empty()).map(str::to_string).collect();
        Some(Group { id, name, members })
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn membership_now_and_after_the_next_login_are_two_things() {
        let system = System {
            kernel: String::new(),
            distribution: None,
            command_line: "BOOT_IMAGE=/vmlinuz ro iommu=pt".into(),
            is_wsl: false,
            container: None,
            user: User { id: 1000, name: Some("alice".into()), groups: vec![44, 1000] },
            groups: groups("root:x:0:\nvideo:x:44:alice\nrender:x:109:bob,alice\nbroken\nempty:x:7"),
        };
        assert!(system.is_in_group(44) && system.will_be_in_group(44));
        assert!(!system.is_in_group(109) && system.will_be_in_group(109));
        assert!(!system.will_be_in_group(0));
        assert_eq!((system.group_name(109).as_str(), system.group_name(5).as_str()), ("render", "5"));
        assert!(system.was_started_with("iommu=pt") && !system.was_started_with("iommu"));
    }
}
