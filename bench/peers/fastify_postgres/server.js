// The benchmark's contract in Node: Fastify, postgres.js, and @node-rs/argon2 for argon2id.
import { createHash, timingSafeEqual } from 'node:crypto'
import { Readable } from 'node:stream'
import { hash } from '@node-rs/argon2'
import Fastify from 'fastify'
import postgres from 'postgres'

const { env } = process
const keyHash = Buffer.from(env.KEY_HASH, 'hex')
const hashing = { memoryCost: Number(env.HASH_MEMORY), timeCost: Number(env.HASH_PASSES), parallelism: 1 }

// The folder of a socket stands in the query, and nothing where URL() insists on a host.
const url = new URL(env.DATABASE_URL.replace('@/', '@localhost/'))
const sql = postgres({
  host: url.searchParams.get('host') ?? url.hostname,
  database: url.pathname.slice(1),
  username: url.username,
  max: Number(env.POOL_SIZE),
  types: { bigint: postgres.BigInt }
})
const columns = sql`id, email, display_name, is_active, created_at`

const app = Fastify()
app.addHook('onRequest', (request, reply, done) => {
  const [scheme, key = ''] = (request.headers.authorization ?? '').split(' ')
  const isKnown = timingSafeEqual(createHash('sha256').update(key).digest(), keyHash)
  if (scheme === 'Bearer' && isKnown) return done()
  reply.code(401).header('WWW-Authenticate', 'Bearer').send(new Error('A known key is needed'))
})

app.setErrorHandler((error, request, reply) => {
  if (error.validation || error.code?.startsWith('22')) error.statusCode = 422 // 22: a value no column holds
  else if (error.code === '23505') error.statusCode = 409 // a unique constraint
  else if (error instanceof SyntaxError) error.statusCode = 400
  reply.send(error)
})

const id = { type: 'string', pattern: '^[0-9]+$' } // a bigint: numbers are exact up to 2^53 only
const displayName = { type: ['string', 'null'] }
const user = {
  type: 'object',
  nullable: true,
  properties: {
    id: { type: 'integer' },
    email: { type: 'string' },
    display_name: displayName,
    is_active: { type: 'boolean' },
    created_at: { type: 'string', format: 'date-time' }
  }
}
const users = { type: 'array', items: user }
const newUser = (secret) => ({
  type: 'object',
  required: ['email', ...Object.keys(secret)],
  properties: {
    ...secret,
    email: { type: 'string', format: 'email' },
    display_name: { ...displayName, default: null }
  }
})
const notFound = (reply) => reply.code(404).send(new Error('There is no user with this id'))

const getUser = { params: { type: 'object', properties: { id } }, response: { 200: user } }
app.get('/users/:id', { schema: getUser }, async (request, reply) => {
  const [user] = await sql`select ${columns} from users where id = ${request.params.id}`
  return user ?? notFound(reply)
})

const change = { type: 'object', required: ['display_name'], properties: { display_name: displayName } }
app.patch('/users/:id', { schema: { ...getUser, body: change } }, async (request, reply) => {
  const [user] = await sql`
    update users set display_name = ${request.body.display_name}, version = version + 1, updated_at = now()
    where id = ${request.params.id} returning ${columns}`
  return user ?? notFound(reply)
})

const limit = { type: 'integer', minimum: 1, maximum: 1000, default: 100 }
const listUsers = {
  querystring: { type: 'object', properties: { limit, cursor: { ...id, default: '0' } } },
  response: { 200: { type: 'object', properties: { users, next_cursor: { type: ['string', 'null'] } } } }
}
app.get('/users', { schema: listUsers }, async (request) => {
  const { limit, cursor } = request.query
  const found = await sql`select ${columns} from users where id > ${cursor} order by id limit ${limit + 1}`
  const users = found.slice(0, limit)
  return { users, next_cursor: found.length > limit ? String(users.at(-1).id) : null }
})

const ids = { type: 'array', minItems: 1, maxItems: 1000, items: { type: 'integer' } }
const lookUpUsers = {
  body: { type: 'object', required: ['ids'], properties: { ids } },
  response: { 200: { type: 'object', properties: { users } } }
}
app.post('/users/lookup', { schema: lookUpUsers }, async (request) => {
  const { ids } = request.body
  const found = await sql`select ${columns} from users where id = any(${ids})`
  const byId = new Map(found.map((user) => [Number(user.id), user]))
  return { users: ids.map((id) => byId.get(id) ?? null) }
})

const createUser = { body: newUser({ password: { type: 'string', minLength: 8 } }), response: { 201: user } }
app.post('/users', { schema: createUser }, async (request, reply) => {
  const { email, password, display_name } = request.body
  const [user] = await sql`
    insert into users (email, hashed_password, display_name)
    values (${email.toLowerCase()}, ${await hash(password, hashing)}, ${display_name}) returning ${columns}`
  return reply.code(201).header('Location', `/users/${user.id}`).send(user)
})

app.get('/users/export', (request, reply) => {
  const serialize = reply.compileSerializationSchema(user)
  async function * lines () {
    const found = sql`select ${columns} from users order by id`.cursor(1000)
    for await (const users of found) yield users.map((user) => serialize(user) + '\n').join('')
  }
  reply.type('application/x-ndjson').send(Readable.from(lines()))
})

async function * batches (body) {
  let rest = ''
  for await (const chunk of body.setEncoding('utf8').iterator({ destroyOnReturn: false })) {
    const lines = (rest + chunk).split('\n')
    rest = lines.pop()
    yield lines
  }
  yield [rest]
}

const importedUser = newUser({ hashed_password: { type: 'string' } })
app.addContentTypeParser('application/x-ndjson', (request, body, done) => done(null, body))
app.post('/users/import', (request) => sql.begin(async (sql) => {
  const isValid = request.compileValidationSchema(importedUser)
  let created = 0
  for await (const lines of batches(request.body)) {
    const users = lines.filter(Boolean).map((line) => JSON.parse(line))
    if (!users.every((user) => isValid(user))) {
      throw Object.assign(new Error('A line is no user'), { validation: isValid.errors })
    }
    const { count } = await sql`
      insert into users (email, hashed_password, display_name)
      select lower(email), hashed_password, display_name
      from jsonb_to_recordset(${sql.json(users)})
        as line (email text, hashed_password text, display_name text)`
    created += count
  }
  return { created }
}).finally(() => request.body.resume())) // a client that still sends would not read the answer

await app.listen({ host: '127.0.0.1', port: Number(env.PORT) })
