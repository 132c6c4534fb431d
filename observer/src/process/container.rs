//! What container runtimes keep in files about their containers.

use std::path::Path;

use observer_core::process::Resource;

use crate::files::all_of;

/// Where the files are looked for: as the daemon sees them, and as the node's first process does. A daemon in a container
/// that has the node's PID namespace finds them there.
const ROOTS: [&str; 2] = ["/", "/proc/1/root"];

/// Maximum size of a file about one container, in bytes.
const AT_MOST: usize = 512 << 10;

/// Maximum size of a file about all containers of a storage, in bytes: those of about two thousand.
const STORAGE_AT_MOST: usize = 2 << 20;

/// Where containerd keeps the bundles of running containers: of Kubernetes, of nerdctl, and of K3s.
const TASKS: [&str; 3] = [
    "run/containerd/io.containerd.runtime.v2.task/k8s.io",
    "run/containerd/io.containerd.runtime.v2.task/default",
    "run/k3s/containerd/io.containerd.runtime.v2.task/k8s.io",
];

/// Where CRI-O and Podman keep their containers.
const STORAGES: [&str; 2] =
    ["run/containers/storage/overlay-containers", "var/lib/containers/storage/overlay-containers"];

/// The service of the container with this id of 64 digits; `None` if no file that is readable has a name for it. That
/// needs root, or `CAP_DAC_READ_SEARCH` (and `CAP_SYS_PTRACE`, for the root of the first process).
pub(super) fn service(id: &str) -> Option<Resource> {
    ROOTS.into_iter().find_map(|root| below(Path::new(root), id))
}

fn below(root: &Path, id: &str) -> Option<Resource> {
    let read = |file: String, at_most| all_of(&root.join(file), at_most).ok();
    let docker = format!("var/lib/docker/containers/{id}/config.v2.json");
    if let Some(text) = read(docker, AT_MOST) {
        return Resource::of_docker(&text);
    }
    let bundles = TASKS.map(|folder| format!("{folder}/{id}/config.json"));
    let userdata = STORAGES.map(|folder| format!("{folder}/{id}/userdata/config.json"));
    let bundles = bundles.into_iter().chain(userdata).filter_map(|file| read(file, AT_MOST));
    let mut bundles = bundles.filter_map(|text| Resource::of_bundle(&text, id));
    bundles.next().or_else(|| {
        let storages = STORAGES.iter().map(|folder| format!("{folder}/containers.json"));
        let mut storages = storages.filter_map(|file| read(file, STORAGE_AT_MOST));
        storages.find_map(|text| Resource::of_storage(&text, id))
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const ID: &str = "8ad700d1f7115aba42de87ce088d3f16808a1ac54e2d7f562c499bdef8d0a0d4";

    /// The name for the container if this file has this text.
    fn named(file: &str, text: &str) -> Option<String> {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join(file.replace("ID", ID));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text.replace("ID", ID)).unwrap();
        below(root.path(), ID).map(|of| of.name.into())
    }

    #[test]
    fn each_runtime_has_its_place() {
        let shop = || Some("shop".to_owned());
        let docker = r#"{"ID":"ID","Config":{"Image":"x","Labels":{}},"Name":"/shop"}"#;
        assert_eq!(named("var/lib/docker/containers/ID/config.v2.json", docker), shop());
        let bundle = r#"{"annotations":{"io.kubernetes.cri.container-name":"shop"}}"#;
        for folder in TASKS {
            assert_eq!(named(&format!("{folder}/ID/config.json"), bundle), shop(), "{folder}");
        }
        let bundle = r#"{"annotations":{"io.kubernetes.container.name":"shop"}}"#;
        let storage = r#"[{"id":"ID","names":["shop"],"metadata":"{}"}]"#;
        for folder in STORAGES {
            let file = format!("{folder}/ID/userdata/config.json");
            assert_eq!(named(&file, bundle), shop(), "{folder}");
            assert_eq!(named(&format!("{folder}/containers.json"), storage), shop(), "{folder}");
        }
        assert_eq!(named("elsewhere", docker), None);
    }

    #[test]
    fn a_file_that_is_too_long_has_no_name() {
        let text = |length: usize| {
            format!(r#"{{"Config":{{}},"Name":"/shop","x":"{}"}}"#, "x".repeat(length))
        };
        let file = "var/lib/docker/containers/ID/config.v2.json";
        assert_eq!(named(file, &text(AT_MOST / 2)), Some("shop".into()));
        assert_eq!(named(file, &text(AT_MOST)), None);
    }
}
