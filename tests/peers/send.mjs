// A hospital's interface written with node-hl7-client: its builders write each message, its
// connection sends it, its parser reads the answer. Prints a list of what was sent and answered.
import { Client, HL7_2_3_1, HL7_2_5_1 } from "node-hl7-client";

const [port, uid] = process.argv.slice(2);

function begin(Version, type, event, control) {
  return new Version().buildMSH({
    msh_3: "NODE", msh_4: "HOSP", msh_5: "ENGINE", msh_6: "RAD",
    msh_9_1: type, msh_9_2: event, msh_10: control, msh_11_1: "P",
  });
}

function patient(message, name) {
  return message.buildSegment("PID", {
    pid_1: "1", pid_3: "0055501^^^HOSP^MR", pid_5: name, pid_7: "19750322", pid_8: "F",
  });
}

// ORM^O01 v2.3.1, the numbers in OBR-18 to OBR-20 and the UID in ZDS.
function orm() {
  const message = patient(begin(HL7_2_3_1, "ORM", "O01", "N1"), "ROE^NORA")
    .buildSegment("PV1", { pv1_1: "1", pv1_2: "O" })
    .buildSegment("ORC", { orc_1: "NW", orc_2: "N100^EMR", orc_7: "1^once^^20260302080000^^R" })
    .buildSegment("OBR", {
      obr_1: "1", obr_2: "N100^EMR", obr_4: "MRBRWO^MRI brain w/o contrast^L",
      obr_18: "A2026000701", obr_19: "RPN1", obr_20: "SPSN1", obr_24: "MR",
      obr_27: "1^once^^20260302080000^^R",
    })
    .toMessage();
  message.addSegment("ZDS");
  message.set("ZDS.1", `${uid}^100^Application^DICOM`);
  return message;
}

// OMI^O23 v2.5.1, the numbers in IPC and the time in TQ1.
function omi(control, placer) {
  return patient(begin(HL7_2_5_1, "OMI", "O23", control), "ROE^NORA")
    .buildSegment("PV1", { pv1_1: "1", pv1_2: "O" })
    .buildSegment("ORC", { orc_1: "NW", orc_2: placer })
    .buildSegment("TQ1", { tq1_1: "1", tq1_7: "20260302090000", tq1_9: "S" })
    .buildSegment("OBR", { obr_1: "1", obr_2: placer, obr_4: "MRKNWO^MRI knee w/o contrast^L" })
    .buildSegment("IPC", {
      ipc_1: "A2026000702^RIS", ipc_2: "RPN2^RIS", ipc_3: `${uid}.2`, ipc_4: "SPSN2^RIS",
      ipc_5: "MR", ipc_9: "MR1AE",
    })
    .toMessage();
}

// An update of the patient's name.
function adt() {
  return patient(
    begin(HL7_2_5_1, "ADT", "A08", "N3").buildSegment("EVN", { evn_2: "20260301080000" }),
    "ROE-POE^NORA",
  ).buildSegment("PV1", { pv1_1: "1", pv1_2: "O" }).toMessage();
}

// An order that lost its patient on the way.
function bad() {
  return begin(HL7_2_5_1, "OMI", "O23", "N4")
    .buildSegment("ORC", { orc_1: "NW", orc_2: "N400^EMR" })
    .buildSegment("OBR", { obr_1: "1", obr_2: "N400^EMR", obr_4: "MRBRWO^MRI brain^L" })
    .toMessage();
}

const told = [];

// The client wants every message of a connection to be of one version.
async function send(version, messages) {
  let heard;
  const client = new Client({ host: "127.0.0.1", version });
  const connection = client.createConnection({ port: Number(port), autoConnect: false }, (answer) =>
    heard(answer.getMessage()),
  );
  for (const message of messages) {
    const answered = new Promise((resolve) => (heard = resolve));
    await connection.sendMessage(message);
    const answer = await answered;
    told.push({
      sent: message.toString(),
      code: answer.get("MSA.1").toString(),
      control: answer.get("MSA.2").toString(),
      answer: answer.toString(),
    });
  }
  await connection.close();
}

await send("2.3.1", [orm()]);
await send("2.5.1", [omi("N2", "N200^EMR"), adt(), bad()]);
console.log(JSON.stringify(told));
