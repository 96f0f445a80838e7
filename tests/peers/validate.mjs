// FHIR R4 as npm's "fhir" knows it: reads a JSON list of resources, prints what is wrong with each.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const { Fhir } = createRequire(import.meta.url)("fhir/fhir");
const fhir = new Fhir();

const found = JSON.parse(readFileSync(0, "utf8")).map((resource) =>
  fhir
    .validate(resource, { errorOnUnexpected: true })
    .messages.filter((message) => message.severity === "error")
    .map((message) => `${message.location}: ${message.message}`),
);
process.stdout.write(JSON.stringify(found));
