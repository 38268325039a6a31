//! The real programs work on this machine, straight from a real registry.

use std::process::Command;
use std::time::Duration;

use pierhead_kit::http::{Request, get};
use pierhead_kit::images::{self, many_layers, media, multi_arch, random_layers};
use pierhead_kit::program::{
    Child, Containerd, DockerRegistry, Dockerd, Podman, Run, Skopeo, files, require, which,
};
use pierhead_kit::sha256;
use pierhead_kit::upstream::FaultyUpstream;

const NAME: &str = "library/app:1";

#[test]
fn a_registry_keeps_data_and_port() {
    let Some(mut registry) = DockerRegistry::start() else { return };
    if Skopeo::find().is_none() {
        return;
    }
    let layout = multi_arch(100_000);
    let digest = registry.push(&layout, NAME);
    let url = format!("{}/v2/library/app/manifests/1", registry.url());
    // It answers 404 to who does not take the type that it has.
    let asked = |method: &str, url: &str| {
        Request::new(method, url).header("accept", media::ACCEPT_ALL).send().expect(200)
    };
    for round in 1..=2 {
        assert_eq!(asked("HEAD", &url).header("docker-content-digest"), Some(digest.as_str()));
        for (manifest, _) in layout.manifests() {
            let url = format!("{}/v2/library/app/manifests/{manifest}", registry.url());
            assert_eq!(sha256(asked("GET", &url).body), manifest);
        }
        for (blob, size) in layout.blobs() {
            let url = format!("{}/v2/library/app/blobs/{blob}", registry.url());
            let body = get(url).expect(200).body;
            assert_eq!((sha256(&body), body.len() as u64), (blob.clone(), size));
            registry.wait_for("the GET in the access log", |log| {
                let hits = log.iter().filter(|r| r.path.ends_with(&blob) && r.method == "GET");
                let good: Vec<_> = hits.filter(|r| r.status == 200 && r.bytes == size).collect();
                good.len() == round
            });
        }
        registry.stop();
        assert!(Request::new("GET", &url).try_send().is_err());
        registry.resume();
    }
}

#[test]
fn skopeo_copies_every_byte() {
    let (Some(skopeo), Some(registry)) = (Skopeo::find(), DockerRegistry::start()) else { return };
    let layout = multi_arch(100_000);
    let digest = registry.push(&layout, NAME);
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    skopeo.copy_to_dir(&format!("{}/{NAME}", registry.host()), &one).ok();
    // The same from the misbehaving upstream, while it behaves.
    let upstream = FaultyUpstream::start_blocking();
    assert_eq!(upstream.add_layout(&layout, "library/app", "1"), digest);
    skopeo.copy_to_dir(&format!("{}/library/app@{digest}", upstream.addr()), &two).ok();
    assert_eq!(files(&one), files(&two));
    let all = files(&one).into_values().collect::<Vec<_>>();
    let wanted = layout.blobs().into_keys().chain(layout.manifests().into_iter().map(|(d, _)| d));
    for digest in wanted {
        assert!(all.contains(&digest), "{digest} is missing in {:?}", files(&one));
    }
    let raw = skopeo.inspect_raw(&format!("{}/{NAME}", registry.host())).ok();
    assert_eq!(sha256(raw.stdout), digest);
    skopeo.inspect_raw(&format!("{}/library/none:1", registry.host())).fails();
}

#[test]
fn dockerd_pulls_through_its_mirror() {
    let (Some(_), Some(registry)) = (Skopeo::find(), DockerRegistry::start()) else { return };
    let Some(dockerd) = Dockerd::start(&[&registry.url()]) else { return };
    let layout = multi_arch(100_000);
    let digest = registry.push(&layout, NAME);
    for image in ["app:1".to_owned(), format!("app@{digest}")] {
        dockerd.pull(&image).ok();
        let config = dockerd.docker(["image", "inspect", "--format", "{{.Id}}", &image]).ok();
        assert_eq!(config.text(), layout.image_blobs(&layout.platform("amd64"))[0]);
        dockerd.forget_images();
        assert_eq!(dockerd.docker(["image", "ls", "--quiet"]).ok().text(), "");
    }
    registry.push(&many_layers(), "library/many:1");
    dockerd.pull("many:1").ok();
    dockerd.pull("none:1").fails();
}

#[test]
fn containerd_pulls_through_its_mirror() {
    let (Some(_), Some(registry)) = (Skopeo::find(), DockerRegistry::start()) else { return };
    let Some(containerd) = Containerd::start() else { return };
    containerd.set_mirror("docker.io", &registry.url());
    let layout = multi_arch(100_000);
    let digest = registry.push(&layout, NAME);
    for image in [format!("docker.io/{NAME}"), format!("docker.io/library/app@{digest}")] {
        containerd.pull(&image).ok();
        containerd.fetch_all(&image).ok();
        let content = containerd.content();
        for digest in layout.blobs().into_keys() {
            assert!(content.contains(&digest), "{digest} is missing in {content:?}");
        }
        assert_eq!(sha256(containerd.read(&digest)), digest);
        containerd.forget_images();
        assert!(containerd.content().is_empty());
    }
    assert!(registry.access_log().iter().any(|r| r.query == "ns=docker.io"));
}

#[test]
fn podman_pulls_through_registries_conf() {
    let (Some(_), Some(registry)) = (Skopeo::find(), DockerRegistry::start()) else { return };
    let layout = random_layers(2, 100_000);
    // A plain registry knows no upstreams: the prefix is part of the name here.
    let digest = registry.push(&layout, "docker.io/library/app:1");
    let location = format!("{}/docker.io", registry.host());
    let Some(podman) = Podman::with_docker_io_at(&location) else { return };
    for image in [format!("docker.io/{NAME}"), format!("docker.io/library/app@{digest}")] {
        podman.pull(&image).ok();
        let id =
            podman.podman(["image", "inspect", "--format", "{{.Id}} {{.Digest}}", &image]).ok();
        let config = layout.image_blobs(&digest)[0].replace("sha256:", "");
        assert_eq!(id.text(), format!("{config} {digest}"));
        podman.forget_images();
    }
}

#[test]
fn debian_as_an_image() {
    let (Some(_), Some(registry)) = (Skopeo::find(), DockerRegistry::start()) else { return };
    let Some(layout) = images::debootstrap_rootfs() else { return };
    let (_, size) = layout.blobs().into_iter().max_by_key(|(_, size)| *size).unwrap();
    assert!(size > 30_000_000, "{size}");
    registry.push(&layout, "library/debian:bookworm");
    let Some(dockerd) = Dockerd::start(&[&registry.url()]) else { return };
    dockerd.pull("debian:bookworm").ok();
    let run = ["run", "--rm", "--network", "none", "debian:bookworm", "cat", "/etc/debian_version"];
    let version = dockerd.docker(run).ok();
    assert!(version.text().starts_with("12."), "{version}");
}

#[test]
fn children_end_with_their_handle() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "echo listening on x; sleep 1000 & echo $!; wait"]);
    let mut child = Child::spawn("sleeper", command, dir.path());
    assert_eq!(child.wait_line("listening on ", Duration::from_secs(5)), "x");
    let stdout = |child: &Child| child.stdout().lines().nth(1).map(str::to_owned);
    let sleeper = child.wait_ready("a number", Duration::from_secs(5), stdout);
    drop(child);
    let gone = || (!runs(&sleeper)).then_some(());
    pierhead_kit::wait_until("the sleeper to end", Duration::from_secs(5), gone);

    let mut command = Command::new("sh");
    command.args(["-c", "echo oops >&2; exit 3"]);
    let mut child = Child::spawn("failing", command, dir.path());
    let why = child.try_wait_ready("x", Duration::from_secs(5), |_| None::<()>).unwrap_err();
    assert!(why.contains("oops") && why.contains("3"), "{why}");

    let late = Run::new("sleep").arg("100").deadline(Duration::from_millis(50)).output();
    assert!(late.status.is_none() && late.to_string().contains("deadline"));
}

#[test]
fn missing_programs_are_named() {
    assert!(which("no-such-program").is_none());
    assert!(which("sh").is_some());
    if std::env::var_os("CI").is_none() && std::env::var_os("PIERHEAD_REQUIRE_PROGRAMS").is_none() {
        assert!(require("no-such-program").is_none());
    }
}

#[test]
fn victim() {
    let Some(dir) = std::env::var_os("KIT_VICTIM_DIR") else { return };
    let dir = std::path::Path::new(&dir);
    let mut command = Command::new("sleep");
    command.arg("1000");
    let child = Child::spawn("sleeper", command, dir);
    let file = dir.join("pid");
    std::fs::write(file.with_extension("new"), child.pid().to_string()).unwrap();
    std::fs::rename(file.with_extension("new"), file).unwrap();
    std::thread::sleep(Duration::from_secs(1000));
}

#[test]
fn children_end_with_a_test_that_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "victim"]).env("KIT_VICTIM_DIR", dir.path());
    let mut test = Child::spawn("victim", command, dir.path());
    let pid = |_: &Child| std::fs::read_to_string(dir.path().join("pid")).ok();
    let sleeper = test.wait_ready("a number", Duration::from_secs(10), pid);
    assert!(runs(&sleeper));
    test.kill9();
    let gone = || (!runs(&sleeper)).then_some(());
    pierhead_kit::wait_until("the sleeper to end", Duration::from_secs(5), gone);
}

fn runs(pid: &str) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !state.is_empty() && !state.contains(") Z ")
}
