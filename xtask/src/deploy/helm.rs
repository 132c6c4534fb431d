//! Checks the Helm chart with Helm. With its defaults it must be `deploy/kubernetes/observer.yaml`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::{file, python};
use crate::exec;

const VERSION: &str = "v3.18.4";

/// The version of Kubernetes, which Helm would otherwise ask a cluster for.
const KUBERNETES: [&str; 2] = ["--kube-version", "1.30.0"];

/// All values that change the objects.
const VALUES: [&str; 13] = [
    "--set=webConfigSecret=web",
    "--set=args={--port=50051}",
    "--set=priorityClassName=system-node-critical",
    "--set=podAnnotations.a=b",
    "--set=image.tag=v1",
    "--set=labels={exe,pod}",
    "--set=podNames=true",
    "--set=clusterPeers=true",
    "--set=otlp.endpoint=http://$(HOST_IP):4318",
    "--set=serviceEnvironment=true",
    "--set=exclude={grpc.health.v1.*,*/Watch}",
    "--set=seccompProfile.type=Unconfined",
    "--set=networkPolicy.from[0].namespaceSelector.matchLabels.monitoring=yes",
];

pub(super) fn check(place: &Path) -> Result<()> {
    let helm = installed()?;
    let chart = file("helm/observer");
    exec::run(Command::new(&helm).args(["lint", "--strict"]).arg(&chart))?;
    let render = |more: &[&str]| {
        let mut template = Command::new(&helm);
        template.arg("template").arg("observer").arg(&chart).args(KUBERNETES);
        exec::output(template.args(["--namespace", "observer"]).args(more))
    };
    let plain = fs::read_to_string(file("kubernetes/observer.yaml")).context("read the objects")?;
    ensure!(
        render(&[])? == plain,
        "deploy/kubernetes/observer.yaml is not the output of the chart: helm template observer \
         deploy/helm/observer {} --namespace observer > deploy/kubernetes/observer.yaml",
        KUBERNETES.join(" ")
    );
    let changed = place.join("observer.yaml");
    let objects = render(&VALUES)?;
    for (value, expected) in [
        ("labels", "--labels=exe,pod"),
        ("labels", "SETUID, SYS_PTRACE]"),
        ("exclude", "\"--exclude=grpc.health.v1.*,*/Watch\""),
        ("serviceEnvironment", "- --service-environment\n"),
        ("podNames", "- --by=service\n"),
        ("priorityClassName", "priorityClassName: system-node-critical"),
        ("seccompProfile", "type: Unconfined"),
        ("networkPolicy", "namespaceSelector"),
        ("podNames", "- port: 6443"),
        ("otlp", "- --otlp-endpoint=http://$(HOST_IP):4318"),
        ("otlp", "fieldPath: status.hostIP"),
        ("otlp", "- port: 4318"),
        ("podNames", "kind: ClusterRoleBinding"),
        ("clusterPeers", "resources: [pods, services]\n    verbs: [list, watch]\n"),
        ("clusterPeers", "- --kubernetes-peers\n"),
        ("podNames", "--kubernetes-node=$(NODE_NAME)"),
        ("podNames", "automountServiceAccountToken: true"),
    ] {
        ensure!(objects.contains(expected), "{value} does not lead to {expected}");
    }
    fs::write(&changed, objects)?;
    python::validate(&changed)?;
    let monitor =
        render(&["--set=podMonitor.enabled=true", "--set=podMonitor.endpoint.scheme=https"])?;
    ensure!(monitor.contains("scheme: https"), "the PodMonitor has no endpoint");
    ensure!(monitor.contains("sampleLimit: 1000000\n"), "the PodMonitor has no limit");
    // The value of this label is the job, which the alerts select.
    ensure!(
        monitor.contains("jobLabel: app.kubernetes.io/name")
            && monitor.contains("app.kubernetes.io/name: observer\n"),
        "the PodMonitor's job is not observer"
    );
    ensure!(render(&["--set=prot=1"]).is_err(), "the chart accepts an unknown value");
    ensure!(
        render(&["--set=clusterPeers=true"]).is_err(),
        "the chart accepts clusterPeers without podNames"
    );
    Ok(())
}

/// The path of Helm, which is built if it is not installed.
fn installed() -> Result<PathBuf> {
    if let Some(helm) = exec::find("helm") {
        return Ok(helm);
    }
    let folder = exec::target()?.join("deploy/go");
    let mut go = Command::new("go");
    go.args(["install", &format!("helm.sh/helm/v3/cmd/helm@{VERSION}")]).env("GOBIN", &folder);
    exec::run(&mut go)?;
    Ok(folder.join("helm"))
}
