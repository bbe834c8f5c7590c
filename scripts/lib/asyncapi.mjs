// Validates an AsyncAPI document, its references included: node asyncapi.mjs FILE. Run by scripts/asyncapi.sh.

import { Parser, fromFile } from '@asyncapi/parser';

const { document, diagnostics } = await fromFile(new Parser(), process.argv[2]).parse();
const words = ['error', 'warning', 'info', 'hint'];
for (const { severity, code, path, message } of diagnostics) {
  console.error(`${words[severity]}: ${path.join('.')}: ${message} (${code})`);
}
if (!document || diagnostics.some(({ severity }) => severity < 2)) process.exit(1);
console.log(`valid AsyncAPI ${document.version()}: ${document.channels().all().length} channels, ` +
  `${document.operations().all().length} operations`);
