// A real authorization server (npm oidc-provider) for tests. Configuration as JSON in argv[2]:
//   {port, clients: [...], resources: {URI: {scope, format: "jwt" | "opaque"}}, ttl}
// Everybody who logs in is who they say they are; consent is given. Prints one line when it listens.
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const require = createRequire(join(process.env.NODE_MODULES, "x.js"));
const { Provider, errors } = await import(pathToFileURL(require.resolve("oidc-provider")));

const { port, clients, resources, ttl = 300 } = JSON.parse(process.argv[2]);
const issuer = `http://127.0.0.1:${port}`;

const provider = new Provider(issuer, {
  clients,
  scopes: ["openid", "offline_access"],
  pkce: { required: () => true },
  ttl: { AccessToken: ttl, ClientCredentials: ttl, Grant: 3600, Session: 3600, RefreshToken: 3600, Interaction: 600 },
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  issueRefreshToken: async (ctx, client, code) => client.grantTypeAllowed("refresh_token"),
  features: {
    devInteractions: { enabled: true },
    clientCredentials: { enabled: true },
    introspection: { enabled: true },
    revocation: { enabled: true },
    registration: { enabled: true },
    dPoP: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => undefined,
      useGrantedResource: () => true,
      getResourceServerInfo: (ctx, uri) => {
        const found = resources[uri];
        if (!found) throw new errors.InvalidTarget();
        return {
          scope: found.scope ?? "",
          audience: uri,
          accessTokenTTL: ttl,
          accessTokenFormat: found.format ?? "jwt",
          jwt: { sign: { alg: "RS256" } },
        };
      },
    },
  },
});
provider.on("server_error", (_, e) => console.error(e));
provider.listen(port, "127.0.0.1", () => console.log(JSON.stringify({ issuer })));
