//! What the machine has to give: memory that is available, what control groups and resource limits
//! allow, room on a disk.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// Memory that this process can still get, and what bounds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Available {
    /// Bytes, beside those that the process holds.
    pub(crate) bytes: u64,
    /// What the bound is: `free memory`, `the limit of its control group`, ...
    pub(crate) bound: &'static str,
}

/// Where the system says what it has.
pub(crate) struct Machine {
    proc: PathBuf,
    cgroups: PathBuf,
    /// The rest of RLIMIT_AS and of RLIMIT_DATA, bytes.
    rest: [Option<u64>; 2],
}

impl Machine {
    /// The machine that this process runs on.
    pub(crate) fn here() -> Self {
        let proc = Path::new("/proc");
        let rest = [(libc::RLIMIT_AS, "VmSize:"), (libc::RLIMIT_DATA, "VmData:")];
        let rest = rest.map(|(limit, used)| {
            let limit = resource_limit(limit)?;
            Some(limit.saturating_sub(kib(&proc.join("self/status"), used).unwrap_or(0)))
        });
        Self { proc: proc.to_owned(), cgroups: Path::new("/sys/fs/cgroup").to_owned(), rest }
    }

    /// Memory that can still be had: the least of what is available, of the limits of the control
    /// groups that the process is in, and of its resource limits. None where the system says
    /// nothing of this.
    pub(crate) fn memory(&self) -> Option<Available> {
        let free = kib(&self.proc.join("meminfo"), "MemAvailable:");
        let [address_space, data] = self.rest;
        let bounds = [
            (free, "the memory that is free"),
            (self.control_groups(), "the memory limit of its control group"),
            (address_space, "the limit of its address space (`ulimit -v`)"),
            (data, "the limit of its data (`ulimit -d`)"),
        ];
        let bounds = bounds.into_iter().filter_map(|(bytes, bound)| {
            let bytes = bytes?;
            Some(Available { bytes, bound })
        });
        bounds.min_by_key(|available| available.bytes)
    }

    /// Bytes that this process holds in memory now; 0 where the system does not say.
    pub(crate) fn held(&self) -> u64 {
        kib(&self.proc.join("self/status"), "VmRSS:").unwrap_or(0)
    }

    /// What is left of the tightest limit among the control groups of this process and all groups
    /// around them.
    fn control_groups(&self) -> Option<u64> {
        let groups = std::fs::read_to_string(self.proc.join("self/cgroup")).ok()?;
        let left = groups.lines().filter_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, group) = (parts.next()?, parts.next()?);
            match controllers {
                "" => ["", "unified"].iter().filter_map(|at| self.around(at, group, V2)).min(),
                list if list.split(',').any(|name| name == "memory") => {
                    self.around("memory", group, V1)
                }
                _ => None,
            }
        });
        left.min()
    }

    /// The least that is left in a group and in those around it, up to the root of the hierarchy.
    /// In a container the group's path can be the host's, whose beginning is not there: what is
    /// there is read.
    fn around(&self, hierarchy: &str, group: &str, files: Files) -> Option<u64> {
        let root = self.cgroups.join(hierarchy);
        let parts = Path::new(group).components().filter_map(|part| match part {
            Component::Normal(name) => Some(name),
            _ => None,
        });
        let mut folders = vec![root.clone()];
        let mut folder = root;
        for part in parts {
            folder.push(part);
            folders.push(folder.clone());
        }
        folders.iter().filter_map(|folder| files.left(folder)).min()
    }
}

/// How the files of a memory controller are called; version 1's soft limit bounds nothing.
#[derive(Clone, Copy)]
struct Files {
    limits: &'static [&'static str],
    used: &'static str,
    /// Names in `memory.stat` of what can be taken back: pages of files.
    cached: [&'static str; 2],
}

const V2: Files = Files {
    limits: &["memory.max", "memory.high"],
    used: "memory.current",
    cached: ["inactive_file ", "active_file "],
};

const V1: Files = Files {
    limits: &["memory.limit_in_bytes"],
    used: "memory.usage_in_bytes",
    cached: ["total_inactive_file ", "total_active_file "],
};

impl Files {
    /// What is left in a group; none without a limit.
    fn left(self, folder: &Path) -> Option<u64> {
        let number = |name: &str| -> Option<u64> {
            std::fs::read_to_string(folder.join(name)).ok()?.trim().parse().ok()
        };
        // `max`, and version 1's largest number of pages, are no limits.
        let limits = self.limits.iter().filter_map(|name| number(name));
        let limit = limits.filter(|bytes| *bytes < 1 << 60).min()?;
        let statistics = std::fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
        let cached = self.cached.iter().filter_map(|name| {
            let line = statistics.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().parse::<u64>().ok()
        });
        let used = number(self.used).unwrap_or(0).saturating_sub(cached.sum());
        Some(limit.saturating_sub(used))
    }
}

/// A number of a file of the system, in bytes.
fn kib(file: &Path, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()?.checked_mul(1 << 10)
}

#[cfg(target_os = "linux")]
type Resource = libc::__rlimit_resource_t;
#[cfg(not(target_os = "linux"))]
type Resource = libc::c_int;

/// The soft limit of a resource; none where it is unlimited.
fn resource_limit(resource: Resource) -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure is there for the call to fill.
    let found = unsafe { libc::getrlimit(resource, &raw mut limit) } == 0;
    (found && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

/// Bytes that can be written below a path: on the file system of the nearest folder that is there.
pub(crate) fn disk_room(path: &Path) -> Option<u64> {
    let path = std::path::absolute(path).ok()?;
    let there = path.ancestors().find(|folder| folder.exists())?;
    let name = CString::new(there.as_os_str().as_bytes()).ok()?;
    let mut found = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the name ends with a zero, and the structure is there for the call to fill.
    if unsafe { libc::statvfs(name.as_ptr(), found.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: the call succeeded.
    let found = unsafe { found.assume_init() };
    #[allow(clippy::useless_conversion, reason = "the types differ from system to system")]
    let (blocks, size) = (u64::from(found.f_bavail), u64::from(found.f_frsize));
    blocks.checked_mul(size)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test may write plainly")]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// A machine whose files are these.
    fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Machine) {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let (proc, cgroups) = (folder.path().join("proc"), folder.path().join("cgroup"));
        (folder, Machine { proc, cgroups, rest: [None; 2] })
    }

    const FREE: (&str, &str) =
        ("proc/meminfo", "MemTotal: 9999999 kB\nMemAvailable:    1048576 kB\n");

    #[test]
    fn without_limits_what_is_free_can_be_had() {
        let (_folder, machine) = machine(&[FREE]);
        let found = machine.memory().unwrap();
        assert_eq!((found.bytes, found.bound), (1024 * MIB, "the memory that is free"));
        let (_folder, machine) = self::machine(&[]);
        assert_eq!(machine.memory(), None);
        assert_eq!(machine.held(), 0);
    }

    #[test]
    fn a_group_around_the_own_one_counts() {
        let (_folder, machine) = machine(&[
            FREE,
            ("proc/self/cgroup", "0::/a/b\n"),
            ("cgroup/a/memory.max", "314572800\n"), // 300 MiB
            ("cgroup/a/memory.high", "max\n"),
            ("cgroup/a/memory.current", "209715200\n"), // 200 MiB
            ("cgroup/a/memory.stat", "anon 1\ninactive_file 52428800\nactive_file 10485760\n"),
            ("cgroup/a/b/memory.max", "max\n"),
            ("cgroup/a/b/memory.current", "1\n"),
        ]);
        let found = machine.memory().unwrap();
        assert_eq!(found.bytes, (300 - 200 + 50 + 10) * MIB);
        assert_eq!(found.bound, "the memory limit of its control group");
    }

    #[test]
    fn a_soft_limit_counts_and_the_group_of_a_container_is_its_root() {
        let (_folder, machine) = machine(&[
            FREE,
            ("proc/self/cgroup", "0::/host/only/here\n"),
            ("cgroup/memory.max", "419430400\n"),
            ("cgroup/memory.high", "104857600\n"),
            ("cgroup/memory.current", "1048576\n"),
        ]);
        assert_eq!(machine.memory().unwrap().bytes, 99 * MIB);
    }

    #[test]
    fn the_first_version_of_control_groups_is_read_too() {
        let (_folder, machine) = machine(&[
            FREE,
            ("proc/self/cgroup", "12:cpu,cpuacct:/\n5:memory:/docker/x\n0::/\n"),
            ("cgroup/memory/docker/x/memory.limit_in_bytes", "209715200\n"),
            ("cgroup/memory/docker/x/memory.usage_in_bytes", "157286400\n"),
            (
                "cgroup/memory/docker/x/memory.stat",
                "inactive_file 1\ntotal_inactive_file 104857600\n",
            ),
            ("cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ]);
        assert_eq!(machine.memory().unwrap().bytes, 150 * MIB);
    }

    #[test]
    fn resource_limits_count_and_a_group_that_is_full_has_nothing() {
        let (_folder, mut machine) = machine(&[FREE]);
        machine.rest = [Some(7), Some(9)];
        let found = machine.memory().unwrap();
        assert_eq!((found.bytes, found.bound), (7, "the limit of its address space (`ulimit -v`)"));
        let (_folder, machine) = self::machine(&[
            ("proc/self/cgroup", "0::/a\n"),
            ("cgroup/a/memory.max", "100\n"),
            ("cgroup/a/memory.current", "200\n"),
        ]);
        assert_eq!(machine.memory().unwrap().bytes, 0);
    }

    #[test]
    fn a_disk_has_room_also_for_what_is_not_there_yet() {
        let folder = tempfile::tempdir().unwrap();
        let here = disk_room(folder.path()).unwrap();
        let below = disk_room(&folder.path().join("not/there")).unwrap();
        assert!(here > 0 && below > 0);
    }
}
