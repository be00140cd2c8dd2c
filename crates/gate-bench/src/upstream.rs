//! The upstream of the article part: an nginx that answers at once, so that it is never what is measured.

use std::path::Path;

use crate::complaint::Complaint;
use crate::folder::{self, Folder};
use crate::peer;
use crate::probe;
use crate::seats::Seat;
use crate::started::Started;
use crate::tools::Tools;

/// The model all servers are asked for.
pub(crate) const MODEL: &str = "llama3.2:1b";
/// The text in the upstream's answer; it must reach the client through every server.
pub(crate) const TEXT: &str = "The sky is blue because of Rayleigh scattering.";

/// The running upstream.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) started: Started,
    /// One for each Ollama that it plays.
    pub(crate) ports: Vec<u16>,
}

impl Upstream {
    /// Starts it as so many Ollamas and waits until it answers.
    pub(crate) fn start(tools: &Tools, folder: &Folder, count: usize) -> Result<Self, Complaint> {
        let room = folder.room("upstream")?;
        let ports = probe::free_ports(count)?;
        let file = room.join("nginx.conf");
        folder::write(&file, &configuration(&room, &ports))?;
        let mut command = tools.seats.command(Seat::Load, &tools.nginx);
        command.arg("-c").arg(&file).arg("-e").arg(room.join("error.log"));
        let started = Started::spawn("the upstream", command, &room.join("output"))?;
        for port in &ports {
            peer::wait_ready("the upstream", &started, *port, "/api/version")?;
        }
        Ok(Self { started, ports })
    }
}

/// Where nginx keeps its temporary files, so that it needs no folder of the system's.
pub(crate) fn nginx_places(room: &Path) -> String {
    let room = room.display();
    let body = format!("client_body_temp_path {room}/body; proxy_temp_path {room}/proxy;");
    format!("{body} fastcgi_temp_path {room}/fastcgi; uwsgi_temp_path {room}/uwsgi; scgi_temp_path {room}/scgi;")
}

/// The model list, as Ollama writes it.
pub(crate) fn tags() -> String {
    format!(
        r#"{{"models":[{{"name":"{MODEL}","model":"{MODEL}","modified_at":"2025-01-01T00:00:00Z","size":1321098329,"digest":"baf6a787fdffd633537aa2eb51cfd54cb93ff08e28040095462bb63daf552878","details":{{"parent_model":"","format":"gguf","family":"llama","families":["llama"],"parameter_size":"1.2B","quantization_level":"Q8_0"}}}}]}}"#
    )
}

fn answer() -> String {
    format!(
        r#"{{"model":"{MODEL}","created_at":"2025-01-01T00:00:00.000000000Z","response":"{TEXT}","done":true,"done_reason":"stop","context":[1,2,3],"total_duration":5000000,"load_duration":1000000,"prompt_eval_count":4,"prompt_eval_duration":1000000,"eval_count":8,"eval_duration":3000000}}"#
    )
}

/// The list of what is in memory: always the model.
fn in_memory() -> String {
    format!(
        r#"{{"models":[{{"name":"{MODEL}","model":"{MODEL}","size":1321098329,"digest":"baf6a787fdffd633537aa2eb51cfd54cb93ff08e28040095462bb63daf552878","expires_at":"2125-01-01T00:00:00Z","size_vram":0,"context_length":4096}}]}}"#
    )
}

fn configuration(room: &Path, ports: &[u16]) -> String {
    let listens: Vec<String> = ports.iter().map(|port| format!("listen 127.0.0.1:{port} backlog=1024; ")).collect();
    let listens = listens.concat();
    format!(
        "daemon off; pid {room}/nginx.pid; error_log {room}/error.log; worker_processes 1;
events {{ worker_connections 2048; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 300s; default_type application/json;
  {places}
  server {{
    {listens}
    location = /api/generate {{ return 200 '{answer}'; }}
    location = /api/tags {{ return 200 '{tags}'; }}
    location = /api/ps {{ return 200 '{in_memory}'; }}
    location = /api/version {{ return 200 '{{\"version\":\"0.24.0\"}}'; }}
    location / {{ return 200 'Ollama is running'; }}
  }}
}}
",
        room = room.display(),
        places = nginx_places(room),
        answer = answer(),
        tags = tags(),
        in_memory = in_memory(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_json_that_nginx_takes_literally() {
        for text in [answer(), tags(), in_memory()] {
            assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{text}");
            assert!(!text.contains(['\'', '$', '\\']), "{text}");
        }
    }
}
