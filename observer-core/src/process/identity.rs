//! The identity of a process: its program, its user, and the container, unit and pod that its cgroup names.

use std::{fmt, sync::Arc};

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::service::{Resource, Runs};

/// The number of bytes of a text from `/proc` that are kept.
const AT_MOST: usize = 256;

/// The number of bytes of a control group's path that are kept. The paths of pods' containers have about 200.
const PATH_AT_MOST: usize = 512;

/// The program, user, container, unit and pod of a process. Texts are empty if they are not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The path of the program's file, as the process sees it: any bytes, at most 256.
    pub exe: Box<[u8]>,
    /// The first 16 hexadecimal digits of a keyed SHA-256 of the first 4 KiB of `/proc/<pid>/cmdline`. It distinguishes
    /// instances with different arguments and does not publish the arguments, which may hold secrets.
    pub cmdline_hash: Box<str>,
    /// The real user id, in the daemon's user namespace.
    pub uid: Box<str>,
    /// The names in the process's cgroups.
    pub cgroup: Cgroup,
    /// The pod in Kubernetes, if Kubernetes was asked (feature `kubernetes`).
    pub pod: Option<Arc<Pod>>,
    /// The service that its environment names.
    pub environment: Resource,
    /// The service that its container belongs to, as the container's runtime names it.
    pub container: Resource,
    /// The name of what it runs, as in [`Runs`].
    pub runs: Box<str>,
    /// The id of this process among all processes of all nodes, of all times.
    pub instance_id: Box<str>,
}

/// The name of a pod, its service, and its containers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// The pod's namespace.
    pub namespace: Box<str>,
    /// The pod's name in the namespace.
    pub name: Box<str>,
    /// The service that its annotations, labels or owner name. The namespace is never empty.
    pub service: Resource,
    /// The containers' ids and names.
    pub containers: Vec<(Box<str>, Box<str>)>,
}

/// Texts of files in `/proc/<pid>`; `None` if a file cannot be read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Texts<'a> {
    /// The target of the link `exe`.
    pub exe: Option<&'a [u8]>,
    /// The text of `cmdline`: arguments, each with a NUL at its end.
    pub cmdline: Option<&'a [u8]>,
    /// The text of `cgroup`: a line for each hierarchy.
    pub cgroup: Option<&'a [u8]>,
    /// The text of `status`, up to the line `Uid:` at least.
    pub status: Option<&'a [u8]>,
}

impl Identity {
    /// Reads the identity of a process from texts of `/proc`. `key` is that of the hash of arguments.
    pub fn new(key: &Key, texts: Texts<'_>) -> Self {
        let exe = texts.exe.unwrap_or_default();
        // It is empty for a kernel thread, and for a process that is gone.
        let cmdline = texts.cmdline.filter(|line| !line.is_empty());
        let uid = texts.status.and_then(real_uid).map(|uid| uid.to_string().into());
        Self {
            exe: exe.get(..AT_MOST).unwrap_or(exe).into(),
            cmdline_hash: cmdline.map(|line| key.hash(line)).unwrap_or_default(),
            uid: uid.unwrap_or_default(),
            cgroup: Cgroup::parse(&String::from_utf8_lossy(texts.cgroup.unwrap_or_default())),
            pod: None,
            environment: Resource::default(),
            container: Resource::default(),
            runs: cmdline.map_or_else(|| Runs::of_exe(exe), Runs::of_cmdline).name,
            instance_id: Box::default(),
        }
    }
}

/// The first number of the line `Uid:` (proc(5)). It need not be the owner of the files in `/proc/<pid>`.
fn real_uid(status: &[u8]) -> Option<u32> {
    let line = status.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(b"Uid:"))?;
    str::from_utf8(line).ok()?.split_ascii_whitespace().next()?.parse().ok()
}

/// The key of the hashes of arguments. On another node the same arguments have another hash, so a reader without the
/// node's id cannot try out likely arguments.
#[derive(Clone, Copy, Default)]
pub struct Key([u8; 32]);

impl Key {
    /// Creates the key of a node from the node's id, which must stay secret.
    pub fn new(id: &[u8]) -> Self {
        Self(Sha256::new_with_prefix(b"observer cmdline_hash\0").chain_update(id).finalize().into())
    }

    /// The id of the process with this pid that began at this time since this boot: a UUID of version 5.
    ///
    /// Source: `service.instance.id` in OpenTelemetry's semantic conventions, which also have the UUID's namespace.
    pub fn instance_id(&self, boot: &[u8], pid: u32, began: u64) -> Box<str> {
        const NAMESPACE: Uuid = Uuid::from_u128(0x4d63_009a_8d0f_11ee_aad7_4c79_6ed8_e320);
        let hash = Sha256::new_with_prefix(self.0).chain_update(boot);
        let hash = hash.chain_update(pid.to_be_bytes()).chain_update(began.to_be_bytes());
        Uuid::new_v5(&NAMESPACE, &hash.finalize()).to_string().into()
    }

    /// The first 16 digits of the hash. An HMAC is not needed: the key has one length, and the hash is cut.
    fn hash(&self, bytes: &[u8]) -> Box<str> {
        let hash = Sha256::new_with_prefix(self.0).chain_update(bytes).finalize();
        let first = hash.first_chunk().copied().unwrap_or_default();
        format!("{:016x}", u64::from_be_bytes(first)).into()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

/// The container, pod and unit that the names of a process's control groups show. Texts are empty if they are not
/// known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cgroup {
    /// The path of the group, at most 512 bytes: in version 2's hierarchy if the process is in a group there, else in
    /// systemd's.
    pub path: Box<str>,
    /// The container's id: 64 hexadecimal digits.
    pub container_id: Box<str>,
    /// The container's runtime: `docker`, `containerd`, `cri-o`, `podman`; empty if the name does not show it.
    pub runtime: &'static str,
    /// The pod's UID.
    pub pod_uid: Box<str>,
    /// The innermost systemd service; if there is none, the innermost scope that is not a container.
    pub unit: Box<str>,
}

/// The prefixes of the names of containers' scopes, with the systemd driver, and the runtimes that use them.
const RUNTIMES: [(&str, &str); 6] = [
    ("docker-", "docker"),
    ("cri-containerd-", "containerd"),
    ("nerdctl-", "containerd"),
    ("crio-", "cri-o"),
    ("libpod-", "podman"),
    ("", ""),
];

impl Cgroup {
    /// Reads `/proc/<pid>/cgroup` (cgroups(7)): lines `ID:CONTROLLERS:PATH`, one for version 2, up to some dozen for
    /// version 1. Names that one line does not have, another may have.
    fn parse(text: &str) -> Self {
        let mut cgroup = Self::default();
        for line in text.lines() {
            let mut parts = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
            // The last line is version 2's. Its path is the root if version 1 is in use.
            let is_it = controllers == "name=systemd" || controllers.is_empty() && path != "/";
            if is_it || cgroup.path.is_empty() {
                cgroup.path = bounded(path, PATH_AT_MOST);
            }
            let found = Self::of_path(path);
            for (to, from) in [(&mut cgroup.pod_uid, found.pod_uid), (&mut cgroup.unit, found.unit)]
            {
                if to.is_empty() {
                    *to = from;
                }
            }
            if cgroup.container_id.is_empty() {
                cgroup.container_id = found.container_id;
                cgroup.runtime = found.runtime;
            }
        }
        cgroup
    }

    /// Reads one path. The innermost names count: a container may run in another, and systemd in a container.
    fn of_path(path: &str) -> Self {
        let mut cgroup = Self::default();
        let mut scope = "";
        let mut outer = "";
        for name in path.split('/') {
            let stem = name.strip_suffix(".scope").unwrap_or(name);
            if let Some((id, runtime)) = container(stem, outer) {
                cgroup.container_id = id.into();
                cgroup.runtime = runtime;
            } else if name.strip_suffix(".service").is_some() {
                cgroup.unit = bounded(name, AT_MOST);
            } else if stem != name {
                scope = name;
            } else if let Some(uid) = pod_uid(name) {
                cgroup.pod_uid = uid.into();
            }
            outer = name;
        }
        if cgroup.unit.is_empty() {
            cgroup.unit = bounded(scope, AT_MOST);
        }
        cgroup
    }
}

fn bounded(text: &str, at_most: usize) -> Box<str> {
    text.get(..text.floor_char_boundary(at_most)).unwrap_or_default().into()
}

/// The id and runtime of the container with this name, if it is a container's. With the cgroupfs driver the name is
/// only the id, and the name of the group around it may show the runtime.
fn container<'a>(stem: &'a str, outer: &str) -> Option<(&'a str, &'static str)> {
    let (id, runtime) = RUNTIMES
        .iter()
        .find_map(|&(prefix, runtime)| Some((stem.strip_prefix(prefix)?, runtime)))?;
    let is_id = id.len() == 64 && id.bytes().all(|digit| digit.is_ascii_hexdigit());
    let runtime = match outer {
        "docker" if runtime.is_empty() => "docker",
        "libpod_parent" if runtime.is_empty() => "podman",
        _ => runtime,
    };
    is_id.then_some((id, runtime))
}

/// The UID in a pod's name: `pod<UID>` with the cgroupfs driver; `kubepods-burstable-pod<UID>.slice` with systemd's,
/// with underscores for the UID's dashes.
fn pod_uid(name: &str) -> Option<String> {
    let of_slice = || {
        let name = name.strip_suffix(".slice")?;
        Some(name.starts_with("kubepods").then(|| name.rsplit_once("-pod"))??.1)
    };
    let uid = of_slice().or_else(|| name.strip_prefix("pod"))?.replace('_', "-");
    let is_uid =
        (32..=36).contains(&uid.len()) && uid.bytes().all(|c| c.is_ascii_hexdigit() || c == b'-');
    is_uid.then_some(uid)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "3f4e9a0c7c5f4f0e8a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f6071";
    const UID: &str = "8c1f2a3b-4d5e-6f70-8192-a3b4c5d6e7f8";

    /// The container, runtime, pod and unit that a path shows.
    fn names(path: &str) -> (String, &'static str, String, String) {
        let path =
            path.replace("UID_", &UID.replace('-', "_")).replace("UID", UID).replace("ID", ID);
        let Cgroup { path: kept, container_id, runtime, pod_uid, unit } =
            Cgroup::parse(&format!("0::{path}\n"));
        assert_eq!(*kept, path);
        let [id, uid] = [(container_id, ID, "ID"), (pod_uid, UID, "UID")]
            .map(|(text, value, name)| text.replace(value, name));
        (id, runtime, uid, unit.into())
    }

    #[test]
    fn the_names_that_runtimes_give_are_understood() {
        let cases = [
            ("/", ("", "", "", "")),
            ("/system.slice/docker-ID.scope", ("ID", "docker", "", "")),
            ("/docker/ID", ("ID", "docker", "", "")),
            ("/docker/ID/docker/ID", ("ID", "docker", "", "")),
            ("/system.slice/nerdctl-ID.scope", ("ID", "containerd", "", "")),
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID_.slice/\
                 cri-containerd-ID.scope",
                ("ID", "containerd", "UID", ""),
            ),
            ("/kubepods.slice/kubepods-podUID_.slice/crio-ID.scope", ("ID", "cri-o", "UID", "")),
            ("/kubepods/besteffort/podUID/ID", ("ID", "", "UID", "")),
            // As seen from another cgroup namespace.
            ("/../../podUID/ID", ("ID", "", "UID", "")),
            ("/machine.slice/libpod-ID.scope/container", ("ID", "podman", "", "")),
            (
                "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope",
                ("ID", "podman", "", "user@1000.service"),
            ),
            ("/system.slice/orders.service", ("", "", "", "orders.service")),
            ("/user.slice/user-0.slice/session-3.scope", ("", "", "", "session-3.scope")),
            // systemd in a container.
            ("/docker/ID/system.slice/orders.service", ("ID", "docker", "", "orders.service")),
            // Not quite.
            ("/docker/3f4e9a", ("", "", "", "")),
            ("/system.slice/docker-xyz.scope", ("", "", "", "docker-xyz.scope")),
            ("/podcast/pod", ("", "", "", "")),
        ];
        for (path, (id, runtime, uid, unit)) in cases {
            let want = (id.to_owned(), runtime, uid.to_owned(), unit.to_owned());
            assert_eq!(names(path), want, "{path}");
        }
    }

    #[test]
    fn any_line_of_cgroup_v1_may_have_the_names() {
        let text = format!(
            "12:pids:/system.slice/orders.service\n3:name=with:colon:/\n1:name=systemd:/docker/{ID}\n0::/\n"
        );
        let cgroup = Cgroup::parse(&text);
        assert_eq!((&*cgroup.container_id, cgroup.runtime), (ID, "docker"));
        assert_eq!(&*cgroup.unit, "orders.service");
        assert_eq!(Cgroup::parse("neither\n:\n"), Cgroup::default());
    }

    #[test]
    fn the_path_is_that_of_the_hierarchy_in_use() {
        let path = |text: &str| Cgroup::parse(text).path;
        assert_eq!(*path("0::/a\n"), *"/a");
        assert_eq!(*path("2:cpu:/c\n1:name=systemd:/s\n0::/\n"), *"/s");
        assert_eq!(*path("2:cpu:/c\n1:name=systemd:/s\n0::/u\n"), *"/u", "in both");
        assert_eq!(*path("2:cpu:/c\n"), *"/c");
        assert_eq!(*path(""), *"");
    }

    #[test]
    fn texts_are_bounded_and_arguments_are_not_published() {
        let key = Key::new(b"0123456789abcdef0123456789abcdef");
        let exe = [b'x'; 5000];
        let cmdline = Some(&b"orders\0--key=secret\0"[..]);
        let identity = Identity::new(&key, Texts { exe: Some(&exe), cmdline, ..Texts::default() });
        assert_eq!(identity.exe.len(), AT_MOST);
        // k=$(printf 'observer cmdline_hash\0%s' 0123456789abcdef0123456789abcdef | sha256sum | cut -c1-64)
        // (printf %s "$k" | xxd -r -p; printf 'orders\0--key=secret\0') | sha256sum | cut -c1-16
        assert_eq!(&*identity.cmdline_hash, "db6bd7d8d5cecc72");
        let elsewhere = Identity::new(&Key::new(b"1"), Texts { cmdline, ..Texts::default() });
        assert_ne!(elsewhere.cmdline_hash, identity.cmdline_hash);
        let nothing = Texts { cmdline: Some(b""), ..Texts::default() };
        assert_eq!(Identity::new(&key, nothing), Identity::default());
        let long = format!("0::/{0}.service/{0}.service", "é".repeat(AT_MOST));
        let Cgroup { path, unit, .. } = Cgroup::parse(&long);
        assert!(unit.len() <= AT_MOST && path.len() <= PATH_AT_MOST);
    }

    proptest! {
        #[test]
        fn any_texts_are_read(texts in [(); 4].map(|()| prop::collection::vec(any::<u8>(), 0..2000))) {
            let [exe, cmdline, cgroup, status] = &texts;
            let texts = Texts {
                exe: Some(exe),
                cmdline: Some(cmdline),
                cgroup: Some(cgroup),
                status: Some(status),
            };
            let Identity { exe, cgroup, .. } = Identity::new(&Key::default(), texts);
            prop_assert!(exe.len() <= AT_MOST && cgroup.path.len() <= PATH_AT_MOST);
            prop_assert!(cgroup.unit.len() <= AT_MOST);
        }
    }

    #[test]
    fn the_user_is_the_real_one() {
        let uid = |status: &[u8]| {
            Identity::new(&Key::default(), Texts { status: Some(status), ..Texts::default() }).uid
        };
        assert_eq!(*uid(b"Name:\tx\nUid:\t1000\t0\t0\t0\nGid:\t7\t7\t7\t7\n"), *"1000");
        // A name has its newlines escaped.
        assert_eq!(*uid(b"Name:\tUid:\\nUid: 0\nUid:\t65534\t0"), *"65534");
        assert_eq!(*uid(b"Uid:\tx\n"), *"");
        assert_eq!(*uid(b""), *"");
    }
}
