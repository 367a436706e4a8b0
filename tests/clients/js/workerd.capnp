# examples/workers-ai's Worker, in the runtime that Cloudflare's Workers have. Where it asks, test_node.py says.
using Workerd = import "/workerd/workerd.capnp";

const config :Workerd.Config = (
  services = [
    ( name = "worker",
      worker = (
        modules = [
          ( name = "worker.mjs", esModule = embed "../../../examples/workers-ai/worker.mjs" ),
          ( name = "rerankd-ai.mjs", esModule = embed "../../../examples/workers-ai/rerankd-ai.mjs" ),
        ],
        compatibilityDate = "2026-01-01",
        bindings = [( name = "RERANKD_URL", fromEnvironment = "ASKED_URL" )],
        globalOutbound = "this-machine",
      )
    ),
    ( name = "this-machine", network = (allow = ["127.0.0.0/8"]) ),
  ],
  sockets = [( name = "http", http = (), service = "worker" )],
);
