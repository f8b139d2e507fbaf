// A real authorization server (npm oidc-provider) for tests: anybody whom the browser's cookie `person` names is let in.
//
//   node oidc_server.mjs PORT ACCESS_TOKEN_TTL_S ROTATES NODE_MODULES
//
// Registers clients, rotates refresh tokens if ROTATES is "yes", issues JWTs for whatever resource is asked for; `/used`
// lists what refresh tokens were used, and what became of it.
import { createHash } from 'node:crypto';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const [port, ttl, rotates, modules] = process.argv.slice(2);
const require = createRequire(`${modules}/`);
const { Provider } = await import(pathToFileURL(require.resolve('oidc-provider')));
const issuer = `http://127.0.0.1:${port}`;

const provider = new Provider(issuer, {
  scopes: ['openid', 'offline_access', 'read', 'write'],
  pkce: { required: () => true },
  rotateRefreshToken: rotates === 'yes',
  ttl: { AccessToken: Number(ttl), RefreshToken: 86400, Interaction: 600, Session: 86400, Grant: 86400 },
  cookies: { keys: ['of a test'] },
  features: {
    devInteractions: { enabled: false },
    registration: { enabled: true },
    revocation: { enabled: true },
    dPoP: { enabled: true },
    resourceIndicators: {
      enabled: true,
      useGrantedResource: () => true,
      getResourceServerInfo: (ctx, resource) => ({
        scope: 'read write', audience: resource, accessTokenTTL: Number(ttl), accessTokenFormat: 'jwt',
      }),
    },
  },
  findAccount: (ctx, id) => ({ accountId: id, claims: async () => ({ sub: id }) }),
  interactions: { url: (ctx, interaction) => `/let-in/${interaction.uid}` },
});

const used = []; // each use of a refresh token, in order: a digest of it, and the status it was answered with

provider.use(async (ctx, next) => {
  if (ctx.path === '/used') {
    ctx.body = used;
    return;
  }
  await next();
  const token = ctx.oidc?.body?.grant_type === 'refresh_token' && ctx.oidc.body.refresh_token;
  if (token) used.push([createHash('sha256').update(token).digest('hex'), ctx.status]);
});

provider.use(async (ctx, next) => {
  if (!ctx.path.startsWith('/let-in/')) return next();
  const { prompt, params, session, grantId } = await provider.interactionDetails(ctx.req, ctx.res);
  if (prompt.name === 'login') {
    const accountId = ctx.cookies.get('person') ?? 'nobody';
    return provider.interactionFinished(ctx.req, ctx.res, { login: { accountId } });
  }
  const grant = grantId
    ? await provider.Grant.find(grantId)
    : new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
  grant.addOIDCScope(params.scope ?? '');
  grant.addResourceScope(params.resource, params.scope ?? 'read');
  return provider.interactionFinished(ctx.req, ctx.res, { consent: { grantId: await grant.save() } }, { mergeWithLastSubmission: true });
});

provider.listen(Number(port), '127.0.0.1', () => console.log('ready'));
