//! The configuration files of all contenders: as alike as they can be, and the two bad ones of the trials.

use super::contender::Contender;
use super::server::Site;
use crate::upstream::nginx_places;

/// What a configuration is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flavour {
    /// It works.
    Good,
    /// It cannot be read.
    Broken,
    /// It is right, but its workers never become ready. Not every server can have one.
    Hanging,
}

/// The pipe without a reader that a hanging gate takes for its access log.
pub(crate) const FIFO: &str = "access.fifo";
/// Gunicorn's module with the application.
const APPLICATION: &str = "app.py";
/// How long a hanging worker of Gunicorn and one of the gate may take: both far below their defaults of 30 s, so that a
/// trial shows more than one attempt.
const GUNICORN_TIMEOUT_S: u32 = 3;
const GATE_BOOT_TIMEOUT_S: u32 = 1;

/// An application that answers as the simulated backend does, without one: after the time that the prompt asks for,
/// with the prompt.
const ANSWERING: &str = "\
import asyncio, json

async def app(scope, receive, send):
    if scope['type'] == 'lifespan':
        while True:
            message = await receive()
            await send({'type': message['type'] + '.complete'})
            if message['type'] == 'lifespan.shutdown':
                return
    body, more = b'', True
    while more:
        message = await receive()
        body += message.get('body', b'')
        more = message.get('more_body', False)
    prompt = json.loads(body)['prompt'] if body else ''
    if prompt.startswith('@sim:delay:'):
        await asyncio.sleep(int(prompt.split(' ')[0].split(':')[2]) / 1000)
    answer = json.dumps({'response': prompt, 'done': True}).encode()
    head = [(b'content-type', b'application/json'), (b'content-length', str(len(answer)).encode())]
    await send({'type': 'http.response.start', 'status': 200, 'headers': head})
    await send({'type': 'http.response.body', 'body': answer})
";
/// The same while it is being imported, for ever.
const HANGING: &str = "import time\nwhile True:\n    time.sleep(60)\n";

/// What a server's log says once it has met a bad configuration. Gunicorn's word for a hanging one need not come: it
/// does not time workers that have not begun to run.
pub(crate) fn evidence(contender: Contender, flavour: Flavour) -> &'static str {
    match (contender, flavour) {
        (Contender::Gate | Contender::GateReusePort, Flavour::Hanging) => "was not ready within boot_timeout",
        (Contender::Gate | Contender::GateReusePort, _) => "max_body",
        (Contender::Gunicorn, Flavour::Hanging) => "WORKER TIMEOUT",
        (Contender::Gunicorn, _) => "SyntaxError",
        (Contender::Nginx, _) => "no_such_directive",
        (Contender::HaProxy, _) => "no-such-section",
    }
}

/// Names and texts of a server's files.
pub(crate) fn files(site: &Site, worker_class: &str, flavour: Flavour) -> Vec<(&'static str, String)> {
    let name = site.contender.configuration_file();
    let fault = match (flavour, site.contender) {
        (Flavour::Good | Flavour::Hanging, _) => "",
        (Flavour::Broken, Contender::Gunicorn) => "workers = = 2\n",
        (Flavour::Broken, Contender::Gate | Contender::GateReusePort) => "max_body = \"many\"\n",
        (Flavour::Broken, Contender::Nginx) => "no_such_directive on;\n",
        (Flavour::Broken, Contender::HaProxy) => "no-such-section\n",
    };
    let text = match site.contender {
        Contender::Gate | Contender::GateReusePort => gate(site, flavour),
        Contender::Nginx => nginx(site),
        Contender::HaProxy => haproxy(site),
        Contender::Gunicorn => gunicorn(site, worker_class, flavour),
    };
    let mut files = vec![(name, text + fault)];
    if site.contender == Contender::Gunicorn {
        let application = if flavour == Flavour::Hanging { HANGING } else { ANSWERING };
        files.push((APPLICATION, application.to_owned()));
    }
    files
}

fn gate(site: &Site, flavour: Flavour) -> String {
    let Site { contender, room, port, upstream, workers } = site;
    let hanging = match flavour {
        Flavour::Hanging => {
            format!("access_log = \"{}\"\nboot_timeout = \"{GATE_BOOT_TIMEOUT_S}s\"\n", room.join(FIFO).display())
        }
        Flavour::Good | Flavour::Broken => String::new(),
    };
    format!(
        "workers = {workers}\nbind = [\"127.0.0.1:{port}\"]\nupstream = \"http://127.0.0.1:{upstream}\"\n\
         reuse_port = {reuse_port}\nlimit = \"none\"\napi_limit = \"none\"\nlog_level = \"info\"\n{hanging}",
        reuse_port = *contender == Contender::GateReusePort,
    )
}

fn gunicorn(site: &Site, worker_class: &str, flavour: Flavour) -> String {
    let hanging = match flavour {
        Flavour::Hanging => format!("timeout = {GUNICORN_TIMEOUT_S}\n"),
        Flavour::Good | Flavour::Broken => String::new(),
    };
    let Site { room, port, workers, .. } = site;
    format!(
        "wsgi_app = 'app:app'\nchdir = '{room}'\nbind = '127.0.0.1:{port}'\nworkers = {workers}\n\
         worker_class = '{worker_class}'\ncontrol_socket = '{room}/control.sock'\n{hanging}",
        room = room.display(),
    )
}

fn nginx(site: &Site) -> String {
    let Site { room, port, upstream, workers, .. } = site;
    format!(
        "daemon off; pid {room}/nginx.pid; error_log {room}/error.log; worker_processes {workers};
events {{ worker_connections 1024; }}
http {{
  access_log off; default_type application/json;
  {places}
  upstream ollama {{ server 127.0.0.1:{upstream}; keepalive 64; }}
  server {{
    listen 127.0.0.1:{port} backlog=2048;
    proxy_http_version 1.1;
    proxy_set_header Connection \"\";
    location = /healthz {{ return 200 'ok'; }}
    location / {{ proxy_pass http://ollama; }}
  }}
}}
",
        places = nginx_places(room),
        room = room.display(),
    )
}

fn haproxy(site: &Site) -> String {
    let Site { room, port, upstream, .. } = site;
    format!(
        "global
  nbthread 1
  stats socket {room}/haproxy.sock mode 600 level admin expose-fd listeners
defaults
  mode http
  timeout connect 5s
  timeout client 75s
  timeout server 60s
frontend clients
  bind 127.0.0.1:{port} backlog 2048
  http-request return status 200 if {{ path /healthz }}
  default_backend ollama
backend ollama
  server ollama 127.0.0.1:{upstream}
",
        room = room.display(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(contender: Contender, flavour: Flavour) -> String {
        let site = Site { contender, room: "/tmp/x".into(), port: 8001, upstream: 8002, workers: 2 };
        files(&site, "a.Worker", flavour).into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn every_flavour_differs_where_it_must() {
        for contender in Contender::ALL {
            let [good, broken, hanging] =
                [Flavour::Good, Flavour::Broken, Flavour::Hanging].map(|flavour| text(contender, flavour));
            assert!(good.contains("127.0.0.1:8001"), "{good}");
            assert_ne!(good, broken, "{contender}");
            let proxy = matches!(contender, Contender::Nginx | Contender::HaProxy);
            assert_eq!(good == hanging, proxy, "{contender}");
            assert_eq!(good.contains("127.0.0.1:8002"), contender != Contender::Gunicorn, "{contender}");
        }
    }

    #[test]
    fn one_key_tells_the_gates_apart() {
        assert!(text(Contender::Gate, Flavour::Good).contains("reuse_port = false"));
        assert!(text(Contender::GateReusePort, Flavour::Good).contains("reuse_port = true"));
        assert!(text(Contender::Gate, Flavour::Hanging).contains("/tmp/x/access.fifo"));
    }
}
