// JSON Lines in: {policy, identityPolicies: [..], request: {action, principal, account, resource, context}}; `account` is the key's.
// JSON Lines out: {decision: "Allowed" | "ImplicitlyDenied" | "ExplicitlyDenied", errors: [..], ignored: [..]}; a policy with errors gets no decision.
//
// runSimulation validates the policies, the action and the resource. It knows kms:RecipientAttestation:PCR0–31 and ImageSha384 and passes them on for the
// actions that the service reference lists them for. Keys that its data does not list for the action (kms:EncryptionContext:<name> for every action: it looks
// for variable keys behind a slash only) it drops, and names in `ignoredContextKeys`. No option keeps them: mode "Strict" drops them, mode "Discovery" is
// about conditions that may be left out. The supported way is runUnsafeSimulation, "without input validation or context variable verification", asked here
// for requests with dropped keys. It fails on a resource policy without metadata (0.1.173), so policies are handed over as ValidatedPolicy with a name.
import { createInterface } from 'node:readline'
import { createValidatedPolicy, validateIdentityPolicy, validateResourcePolicy } from '@cloud-copilot/iam-policy'
import { runSimulation, runUnsafeSimulation } from '@cloud-copilot/iam-simulate'

function simulation({ policy, identityPolicies, request }) {
  const named = (document, validate, name) => ({ name, policy: createValidatedPolicy(document, validate, { name }) })
  return {
    request: {
      action: request.action,
      principal: request.principal,
      resource: { resource: request.resource, accountId: request.account },
      contextVariables: request.context
    },
    identityPolicies: identityPolicies.map((one, number) => named(one, validateIdentityPolicy, `identity ${number}`)),
    // No organization: neither SCPs nor RCPs.
    serviceControlPolicies: [],
    resourceControlPolicies: [],
    resourcePolicy: named(policy, validateResourcePolicy, 'key policy').policy
  }
}

async function decide(line) {
  const one = simulation(JSON.parse(line))
  const answer = await runSimulation(one, { simulationMode: 'Strict' })
  if (answer.resultType !== 'single') return { decision: null, errors: [answer.errors ?? answer.resultType], ignored: [] }
  const ignored = answer.result.ignoredContextKeys
  return { decision: ignored.length ? runUnsafeSimulation(one, {}) : answer.overallResult, errors: [], ignored }
}

for await (const line of createInterface({ input: process.stdin })) {
  const answer = await decide(line).catch((error) => ({ decision: null, errors: [String(error)], ignored: [] }))
  process.stdout.write(`${JSON.stringify(answer)}\n`)
}
