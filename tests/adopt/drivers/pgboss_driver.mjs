// pg-boss, really run: jobs of three workflows in two queues, one of them made after the adoption.
import { createRequire } from 'node:module'
const found = createRequire(process.argv[4] + '/')('pg-boss')
const PgBoss = found.PgBoss ?? found
const [host, database] = [process.argv[2], process.argv[3]]
const boss = new PgBoss({ host, database, user: 'postgres', archiveCompletedAfterSeconds: 1, maintenanceIntervalSeconds: 1,
  deleteAfterSeconds: 1, supervise: process.argv[5] === 'prune' })
boss.on('error', error => console.error('ERROR', error.message))
await boss.start()
if (process.argv[5] === 'tables') {
  await boss.stop()
  process.exit(0)
}
const wait = ms => new Promise(resolve => setTimeout(resolve, ms))
if (process.argv[5] === 'prune' && boss.deleteStoredJobs) {
  for (const queue of ['letters', 'bills']) await boss.deleteStoredJobs(queue)
} else if (process.argv[5] === 'prune') {
  for (let i = 0; i < 60; i++) {
    const { rows } = await boss.getDb().executeSql("select count(*) from pgboss.job where state = 'completed'")
    if (rows[0].count === '0') break
    await wait(1000)
  }
} else {
  const tried = {}
  const counts = {}
  for (const queue of ['letters', 'bills']) {
    await boss.createQueue(queue)
    for (let w = 0; w < 3; w++) {
      const many = 10 + 10 * w
      const [completed, total, failed, cancelled] = counts[`w-${w}`] ?? [0, 0, 0, 0]
      for (let n = 0; n < many; n++) {
        await boss.send(queue, { workflow_id: `w-${w}`, workflow_name: `Letters ${w}`, n }, { retryLimit: 1, retryDelay: 0 })
      }
      const gone = await boss.send(queue, { workflow_id: `w-${w}`, n: -1 })
      await boss.cancel(queue, gone)
      counts[`w-${w}`] = [completed + many - many / 10, total + many + 1, failed + many / 10, cancelled + 1]
    }
    for (let worker = 0; worker < 8; worker++) {
      await boss.work(queue, { pollingIntervalSeconds: 0.5 }, async ([job]) => {
        tried[job.id] = (tried[job.id] ?? 0) + 1
        if (job.data.n % 10 === 3 || (job.data.n % 10 === 4 && tried[job.id] === 1)) throw new Error('no')
      })
    }
  }
  for (let i = 0; i < 120; i++) {
    const { rows } = await boss.getDb().executeSql("select count(*) from pgboss.job where state in ('created', 'active', 'retry')")
    if (rows[0].count === '0') break
    await wait(500)
  }
  console.log(JSON.stringify({ counts }))
}
await boss.stop({ graceful: true })
