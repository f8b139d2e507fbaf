// An agent on the TypeScript client: lists and calls once, and prints what it saw as JSON.
//   node agent.mjs NODE_MODULES ERA URL KEY TOOL ARGUMENTS
//   node agent.mjs NODE_MODULES ERA stdio COMMAND TOOL ARGUMENTS      COMMAND and ARGUMENTS are JSON
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [modules, era, where, how, tool, args] = process.argv.slice(2);
const load = (file) => import(pathToFileURL(join(modules, "@modelcontextprotocol", "client", "dist", file)));
const { Client, StreamableHTTPClientTransport } = await load("index.mjs");
const { StdioClientTransport } = await load("stdio.mjs");

const modern = { versionNegotiation: { mode: "auto" } };
const client = new Client({ name: "typescript", version: "1" }, era === "modern" ? modern : {});

function transport() {
  if (where === "stdio") {
    const [command, ...rest] = JSON.parse(how);
    return new StdioClientTransport({ command, args: rest, env: process.env });
  }
  return new StreamableHTTPClientTransport(new URL(where), {
    requestInit: { headers: { Authorization: `Bearer ${how}` } },
  });
}

await client.connect(transport());
const { tools } = await client.listTools();
const result = await client.callTool({ name: tool, arguments: JSON.parse(args) });
const version = client.getNegotiatedProtocolVersion();
console.log(JSON.stringify({ version, tools: tools.map((each) => each.name), result }));
await client.close();
