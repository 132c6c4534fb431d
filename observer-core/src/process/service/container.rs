//! The service that a container belongs to, from the files in which container runtimes keep their state.
//!
//! | runtime | file | names in it |
//! |---|---|---|
//! | Docker | `config.v2.json` of the container | `Name`, `Config.Image`, `Config.Labels` |
//! | containerd, CRI-O | `config.json` of the container's bundle | `annotations` |
//! | Podman | `containers.json` of the storage | `names`, and `metadata`, which is a text of JSON |
//!
//! A service has the same name for all its containers. So the label of a Compose or Swarm service counts before the name
//! of the container, and a name that the runtime invented does not count: the next container has another one.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Resource, bounded};

type Labels = BTreeMap<String, String>;

/// Labels whose value is a service.
const SERVICE_LABELS: [&str; 2] = ["com.docker.compose.service", "com.docker.swarm.service.name"];

/// The keys of the container's name in its pod, and of the pod's namespace: those of containerd, and those of CRI-O and
/// of cri-dockerd.
const KUBERNETES: [(&str, &str); 2] = [
    ("io.kubernetes.cri.container-name", "io.kubernetes.cri.sandbox-namespace"),
    ("io.kubernetes.container.name", "io.kubernetes.pod.namespace"),
];

/// The key of the container's name, by nerdctl.
const NERDCTL_NAME: &str = "nerdctl/name";

/// The first words of names that Docker and Podman invent: these, an underscore, the name of a scientist, and perhaps a
/// digit.
const INVENTED: &str = "admiring adoring affectionate agitated amazing angry awesome beautiful blissful bold boring \
    brave busy charming clever compassionate competent condescending confident cool cranky crazy dazzling determined \
    distracted dreamy eager ecstatic elastic elated elegant eloquent epic exciting fervent festive flamboyant focused \
    friendly frosty funny gallant gifted goofy gracious great happy hardcore heuristic hopeful hungry infallible \
    inspiring intelligent interesting jolly jovial keen kind laughing loving lucid magical modest musing mystifying \
    naughty nervous nice nifty nostalgic objective optimistic peaceful pedantic pensive practical priceless quirky \
    quizzical recursing relaxed reverent romantic sad serene sharp silly sleepy stoic strange stupefied suspicious \
    sweet tender thirsty trusting unruffled upbeat vibrant vigilant vigorous wizardly wonderful xenodochial youthful \
    zealous zen";

impl Resource {
    /// Reads Docker's `config.v2.json`. `None` if it has no name for a service.
    pub fn of_docker(text: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Container {
            #[serde(default)]
            name: String,
            config: Config,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Config {
            #[serde(default)]
            image: String,
            #[serde(default)]
            labels: Option<Labels>,
        }
        let Container { name, config: Config { image, labels } } =
            serde_json::from_slice(text).ok()?;
        of_container(&labels.unwrap_or_default(), name.trim_start_matches('/'), &image)
    }

    /// Reads the `config.json` of a bundle (OCI runtime specification) of the container with this id. `None` if its
    /// annotations have no name for a service.
    pub fn of_bundle(text: &[u8], id: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Bundle {
            #[serde(default)]
            annotations: Option<Labels>,
        }
        let Bundle { annotations } = serde_json::from_slice(text).ok()?;
        let annotations = annotations?;
        let name = annotations.get(NERDCTL_NAME).map_or("", String::as_str);
        // nerdctl invents the name of the image with the first five digits of the id.
        let invented = id.get(..5).and_then(|start| name.strip_suffix(start)?.strip_suffix('-'));
        of_container(&annotations, invented.unwrap_or(name), "")
    }

    /// Reads the `containers.json` of Podman's storage, for the container with this id. `None` if it has no name for a
    /// service.
    pub fn of_storage(text: &[u8], id: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Container {
            #[serde(default)]
            id: String,
            #[serde(default)]
            names: Option<Vec<String>>,
            #[serde(default)]
            metadata: String,
        }
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        struct Metadata {
            #[serde(default)]
            image_name: String,
        }
        let containers: Vec<Container> = serde_json::from_slice(text).ok()?;
        let container = containers.into_iter().find(|container| container.id == id)?;
        let Metadata { image_name } = serde_json::from_str(&container.metadata).unwrap_or_default();
        let names = container.names.unwrap_or_default();
        of_container(&Labels::new(), names.first().map_or("", String::as_str), &image_name)
    }
}

/// The service of a container with these labels or annotations, this name and this image.
fn of_container(labels: &Labels, name: &str, image: &str) -> Option<Resource> {
    let label = |key: &str| labels.get(key).map(|text| bounded(text)).filter(|of| !of.is_empty());
    for (name, namespace) in KUBERNETES {
        if let Some(name) = label(name) {
            let namespace = label(namespace).unwrap_or_default();
            return Some(Resource { name, namespace, ..Resource::default() });
        }
    }
    let name = || Some(name).filter(|name| !is_invented(name)).map(bounded);
    let image = || Some(bounded(of_image(image)));
    let names = SERVICE_LABELS.into_iter().map(label).chain([name(), image()]);
    let name = names.flatten().find(|name| !name.is_empty())?;
    Some(Resource { name, ..Resource::default() })
}

/// Whether Docker or Podman may have invented this name, as `happy_turing` or `happy_turing7`.
fn is_invented(name: &str) -> bool {
    let name = name.strip_suffix(|last: char| last.is_ascii_digit()).unwrap_or(name);
    name.split_once('_').is_some_and(|(first, rest)| {
        rest.bytes().all(|byte| byte.is_ascii_lowercase())
            && INVENTED.split_ascii_whitespace().any(|word| word == first)
    })
}

/// The last part of an image's name, without its tag and digest: `shop` of `registry:5000/team/shop:1.2@sha256:…`. Empty
/// if the image has only a digest.
fn of_image(image: &str) -> &str {
    let name = image.split_once('@').map_or(image, |(name, _)| name);
    let last = name.rsplit_once('/').map_or(name, |(_, last)| last);
    let (last, tag) = last.split_once(':').unwrap_or((last, ""));
    let is_digest = |text: &str| text.len() == 64 && text.bytes().all(|c| c.is_ascii_hexdigit());
    if is_digest(tag) || is_digest(last) { "" } else { last }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "8ad700d1f7115aba42de87ce088d3f16808a1ac54e2d7f562c499bdef8d0a0d4";

    fn told(resource: Option<Resource>) -> (String, String) {
        let Resource { name, namespace, instance_id } = resource.unwrap_or_default();
        assert!(instance_id.is_empty());
        (name.into(), namespace.into())
    }

    fn only(name: &str) -> (String, String) {
        (name.to_owned(), String::new())
    }

    /// What Docker 24 writes, without the parts on networks and mounts.
    fn docker(name: &str, image: &str, labels: &str) -> (String, String) {
        let text = r#"{"StreamConfig":{},"State":{"Running":true,"Paused":false,"Pid":1374767,
            "StartedAt":"2023-12-30T13:27:28.918018959Z","Health":null},"ID":"ID",
            "Created":"2023-12-30T13:16:55.186239134Z","Managed":false,"Path":"/docker-entrypoint.sh",
            "Args":["nginx","-g","daemon off;"],"Config":{"Hostname":"8ad700d1f711","Domainname":"",
            "ExposedPorts":{"81/tcp":{}},"Env":["PATH=/usr/bin:/bin"],"Cmd":["nginx"],"Image":"IMAGE",
            "Volumes":null,"Entrypoint":["/docker-entrypoint.sh"],"OnBuild":null,"Labels":LABELS,
            "StopSignal":"SIGQUIT"},
            "Image":"sha256:35d727c3455bcc06a640244c2d2d0975f5712d32bd73b89b461a54202de998a2",
            "ImageManifest":null,"NetworkSettings":{"Bridge":"","Networks":{}},"Name":"/NAME",
            "Driver":"overlay2","OS":"linux","MountPoints":{"/data":{"Name":"a-volume"}}}"#;
        let parts = [("ID", ID), ("IMAGE", image), ("LABELS", labels), ("NAME", name)];
        let text = parts
            .into_iter()
            .fold(text.to_owned(), |text, (key, value)| {
                text.replace(&format!("\"{key}\""), &format!("\"{value}\""))
            })
            .replace("LABELS", labels)
            .replace("/NAME", &format!("/{name}"));
        told(Resource::of_docker(text.as_bytes()))
    }

    #[test]
    fn dockers_file_is_read() {
        let image = "stackals/custom-nginx:1.0.0";
        let of = r#"{"maintainer":"NGINX \u003cdocker-maint@nginx.com\u003e"}"#;
        assert_eq!(docker("custom-nginx-t2", image, of), only("custom-nginx-t2"));
        assert_eq!(docker("dreamy_volhard", image, "null"), only("custom-nginx"));
        assert_eq!(docker("dreamy_volhard", &format!("sha256:{ID}"), "{}"), only(""));
        let compose = r#"{"com.docker.compose.container-number":"1",
            "com.docker.compose.project":"shop","com.docker.compose.service":"orders"}"#;
        assert_eq!(docker("shop-orders-1", image, compose), only("orders"));
        let swarm = r#"{"com.docker.swarm.service.name":"shop_orders"}"#;
        assert_eq!(docker("shop_orders.1.4jz", image, swarm), only("shop_orders"));
        let pod = r#"{"io.kubernetes.container.name":"app","io.kubernetes.pod.namespace":"prod"}"#;
        let pod = docker("k8s_app_shop-x_prod_8c1f_0", image, pod);
        assert_eq!(pod, ("app".to_owned(), "prod".to_owned()));
    }

    #[test]
    fn annotations_of_bundles_are_read() {
        let of = |annotations: &str| {
            let text = format!(
                r#"{{"ociVersion":"1.2.0","root":{{"path":"rootfs"}},"process":{{"args":["x"]}},
                "annotations":{annotations},"linux":{{"resources":{{}}}}}}"#
            );
            told(Resource::of_bundle(text.as_bytes(), ID))
        };
        let containerd = r#"{"io.kubernetes.cri.container-name":"coco-container",
            "io.kubernetes.cri.container-type":"container",
            "io.kubernetes.cri.image-name":"quay.io/kata-containers/confidential-containers:unsigned",
            "io.kubernetes.cri.sandbox-id":"7a0d058477e280604ae02de6a016959e8a05fcd3165c47af41eabcf205b55517",
            "io.kubernetes.cri.sandbox-name":"coco-pod","io.kubernetes.cri.sandbox-namespace":"default",
            "io.kubernetes.cri.sandbox-uid":"de7c6a0c-79c0-44dc-a099-69bb39f180af"}"#;
        assert_eq!(of(containerd), ("coco-container".to_owned(), "default".to_owned()));
        let crio = r#"{"io.kubernetes.pod.namespace":"test-ns","io.kubernetes.pod.name":"pod-name",
            "io.kubernetes.container.name":"container-name","io.container.manager":"cri-o",
            "io.kubernetes.cri-o.ImageName":"example/image:tag",
            "io.kubernetes.cri-o.Name":"k8s_container-name_pod-name_test-ns_pod-uid_0"}"#;
        assert_eq!(of(crio), ("container-name".to_owned(), "test-ns".to_owned()));
        let nerdctl = |name: &str| {
            of(&format!(r#"{{"nerdctl/name":"{name}","nerdctl/namespace":"default"}}"#))
        };
        assert_eq!(nerdctl("lab-nature-localnet-nyxdab"), only("lab-nature-localnet-nyxdab"));
        assert_eq!(nerdctl("shop-8ad70"), only("shop"));
        assert_eq!(of(r#"{"org.opencontainers.image.stopSignal":"15"}"#), only(""));
        assert_eq!(of("null"), only(""));
    }

    #[test]
    fn podmans_storage_is_read() {
        let text = br#"[{"id":"0000","names":["other"],"metadata":"{}"},
            {"id":"ae697efd8d29d8d75988390c19cf787ed8057bacfb1cea82a93a2c36756f88ee","names":["stoic_cerf"],
            "image":"d7af31210b288164c319bae740ca1281528390a3c5cee657e95f243670b49e6a",
            "layer":"206efdc36850d2f4d47776ef079828b712e07be796209122ba988df4a3e1362b",
            "metadata":"{\"image-name\":\"quay.io/centos7/httpd-24-centos7:latest\",\"image-id\":\"d7af\",\"name\":\"stoic_cerf\",\"created-at\":1711009710}",
            "created":"2024-03-21T08:28:30.380877163Z","flags":{"MountLabel":""}},
            {"id":"1111","names":["web"],"metadata":"no json"},{"id":"2222"}]"#;
        let of = |id| told(Resource::of_storage(text, id));
        assert_eq!(
            of("ae697efd8d29d8d75988390c19cf787ed8057bacfb1cea82a93a2c36756f88ee"),
            only("httpd-24-centos7")
        );
        assert_eq!(
            [of("0000"), of("1111"), of("2222"), of("3333")],
            ["other", "web", "", ""].map(only)
        );
    }

    #[test]
    fn invented_names_are_those_of_the_generators() {
        for name in ["happy_turing", "happy_turing7", "zen_lamarr", "xenodochial_euclid0"] {
            assert!(is_invented(name), "{name}");
        }
        for name in
            ["order_service", "happy", "happy-turing", "happy_turing_api", "happy_Turing", "_"]
        {
            assert!(!is_invented(name), "{name}");
        }
    }

    #[test]
    fn an_image_is_named_by_its_last_part() {
        for (image, name) in [
            ("shop", "shop"),
            ("registry:5000/team/shop:1.2", "shop"),
            ("registry:5000/team/shop", "shop"),
            ("shop@sha256:a3b277cc8e50", "shop"),
            ("shop:1@sha256:a3b277cc8e50", "shop"),
            (ID, ""),
            ("", ""),
        ] {
            assert_eq!(of_image(image), name, "{image}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in prop::collection::vec(any::<u8>(), 0..500), id in ".{0,70}") {
            let _ = Resource::of_docker(&text);
            let _ = Resource::of_bundle(&text, &id);
            let _ = Resource::of_storage(&text, &id);
        }

        #[test]
        fn any_names_are_bounded(name in ".{0,400}", image in ".{0,400}") {
            if let Some(Resource { name, .. }) = of_container(&Labels::new(), &name, &image) {
                prop_assert!(!name.is_empty() && name.len() <= 255);
            }
        }
    }
}
