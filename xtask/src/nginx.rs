//! nginx with the same bytes as static files.

use std::fs;
use std::io::copy;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use pierhead_kit::port::Port;
use pierhead_kit::program::Child;
use tempfile::TempDir;

use crate::Result;
use crate::origin::{Blob, Image};
use crate::programs::{NGINX, find};

const START: Duration = Duration::from_secs(10);

/// A running nginx.
#[derive(Debug)]
pub(crate) struct Nginx {
    child: Child,
    port: Port,
    root: PathBuf,
    _dir: TempDir,
}

impl Nginx {
    /// Starts it, with no files yet: sendfile, as many workers as processors, no access log.
    pub(crate) fn start() -> Result<Self> {
        let nginx = find(NGINX)?;
        let dir = TempDir::with_prefix("pierhead-nginx-")?;
        let root = dir.path().join("root");
        fs::create_dir(&root)?;
        let port = Port::reserve();
        let at = |name: &str| dir.path().join(name).display().to_string();
        // Run by root its workers would be somebody who cannot read our directory.
        let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
        let config = format!(
            "daemon off; {user} worker_processes auto; pid {pid}; error_log stderr error;\n\
             events {{ worker_connections 1024; }}\n\
             http {{\n  access_log off; sendfile on; tcp_nopush on; tcp_nodelay on;\n\
             \x20 keepalive_requests 100000000; default_type application/octet-stream;\n\
             \x20 open_file_cache max=100; client_body_temp_path {tmp}; proxy_temp_path {tmp};\n\
             \x20 fastcgi_temp_path {tmp}; uwsgi_temp_path {tmp}; scgi_temp_path {tmp};\n\
             \x20 server {{ listen {address}; root {root}; }}\n}}\n",
            pid = at("pid"),
            tmp = at("tmp"),
            address = port.addr(),
            root = root.display(),
        );
        let file = dir.path().join("nginx.conf");
        fs::write(&file, config)?;
        let mut command = Command::new(nginx);
        command.arg("-e").arg("stderr").arg("-p").arg(dir.path()).arg("-c").arg(file);
        let mut child = Child::spawn("nginx", command, dir.path());
        child.try_wait_ready("listener", START, |_| {
            std::net::TcpStream::connect(port.addr()).ok().map(drop)
        })?;
        Ok(Self { child, port, root, _dir: dir })
    }

    /// `127.0.0.1:PORT`.
    pub(crate) fn host(&self) -> String {
        self.port.addr().to_string()
    }

    /// The process id of the master.
    pub(crate) fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Serves a manifest, by digest and by tag.
    pub(crate) fn add_image(&self, image: &Image) -> Result<()> {
        for path in [image.by_digest(), image.by_tag()] {
            fs::write(self.file(&path)?, &image.manifest)?;
        }
        Ok(())
    }

    /// Serves a blob.
    pub(crate) fn add_blob(&self, blob: &Blob) -> Result<()> {
        let mut file = fs::File::create(self.file(&blob.path())?)?;
        copy(&mut blob.content.reader(), &mut file)?;
        Ok(())
    }

    fn file(&self, path: &str) -> Result<PathBuf> {
        let file = self.root.join(path.trim_start_matches('/'));
        fs::create_dir_all(file.parent().ok_or("a path without a directory")?)?;
        Ok(file)
    }
}
