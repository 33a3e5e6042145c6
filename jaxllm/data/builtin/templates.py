"""Sentences of the embedded NER corpus: plain data, read by `jaxllm.data.builtin.ner`.

`{x}` is a slot (a name by `gazetteers.FORMS`, or a plain word by WORDS), `[a|b]` a choice. A template belongs to one
split alone, with all its choices. What is outside the slots carries no tag: numbers that are no dates, titles and other
capitalised words are there to be told apart from names.
"""

from __future__ import annotations

from jaxllm.data.builtin.gazetteers import listed

WORDS: dict[str, tuple[str, ...]] = {
    "job": listed("""
nurse teacher lawyer pilot chemist farmer journalist doctor surgeon baker plumber sailor writer carpenter librarian
dancer researcher designer manager translator photographer driver cook student judge mechanic composer gardener
"""),
    "kin": listed("sister brother cousin mother father aunt uncle neighbour friend colleague daughter son boss"),
    "thing": listed("""
bridge school library factory station hospital market theatre garden warehouse clinic stadium tower hotel harbour
museum road tunnel laboratory bakery
"""),
    "topic": listed("""
water health taxes music football climate energy farming housing trade chess history fishing safety sleep wages
language space insurance poetry
"""),
    "gadget": listed("phone camera laptop printer speaker scooter drill clock tablet router blender headset drone"),
    "food": listed("bread rice soup fish coffee tea cheese pasta fruit honey butter cake salad milk"),
    "good": listed("quiet cheap slow strong bright heavy small late busy warm new popular simple safe clean dry"),
    "number": listed("two three four five six seven eight nine ten twelve 14 15 18 20 24 30 35 40 60 75 120 250"),
    "crowd": listed("""
Nurses Teachers Lawyers Farmers Doctors Bakers Drivers Students Children Parents Workers Visitors Schools Hospitals
Hotels Buses Trains Ships Bridges Shops Clinics Streets Prices Wages Letters Phones Cameras Printers Watches Books
Songs Storms Games Meetings Holidays Lights Birds Trees
"""),
    "who": ("Nobody", "Everyone", "Somebody", "Someone", "No one", "She", "He", "Each of us", "My uncle", "The boss"),
    "amount": listed("""
$40 $950 $1,200 $3.5 300 450 1,800 2,400 12,000 $75 $2,000 65,000 1,950 2,010 $1,990 $4 $16 $600 820 5,500
"""),
}
"""Plain words, shared by all splits."""

OPENERS: tuple[str, ...] = (
    *("Later,", "Then", "However,", "In the end,", "Of course,", "As expected,", "For now,", "Once again,", "Perhaps"),
    *("They say that", "We heard that", "I think that", "He said that", "It seems that", "Nobody knew that", "Still,"),
    *("On the radio they said that", "To be fair,", "At first,", "Some people say that", "According to the report,"),
    *("The police said that", "A {job} told us that", "My {kin} says that", "So far,", "In other news,", "Sadly,"),
)
JOINTS: tuple[str, ...] = (", and", ", but", " because", ", while", ", so", " and", "; later")
TAILS: tuple[str, ...] = (
    *(
        ", she said.",
        ", I think.",
        ", according to a {job}.",
        ", the {job} said.",
        " again.",
        " this time.",
        " at last.",
    ),
    *(", they say.", " after all.", ", wrote a {job}.", ", as you know.", " in the end.", " for good.", "!"),
)
"""What a statement may begin with, be joined by and end in; shared by all splits."""

_PEOPLE = """
{person} [joined|left|returned to] {org} as [a|the new] {job} in {time}.
{person} was born in {city} on {day} and [grew up|went to school] in {place}.
{person}, a {job} from {place}, [won|lost] the first round [easily|after a long fight].
My {kin} {given} [works|used to work] for {org} in {city}.
I [met|saw|called] {person} at the {thing} [in {city}|near {street}] on {day}.
[Later|There|Then] {person} told the [court|police|committee] that the {thing} was never safe.
Dr. {surname} [will see you now|is with a patient|has not arrived yet].
[Mr.|Mrs.|Ms.] {surname} lives [on|near] {street} with {number} cats.
Prof. {surname} of {org} gave a talk about {topic}.
{person} and {person} were married in {city} [in {time}|on {day}].
{person} moved from {place} to {place} to become a {job}.
After {number} years in {place}, {person} came home [to {city}|to look for work].
[The|A young] {job} {person} wrote a book about {topic} and {topic}.
{given} asked {given} to bring {food} and {food} to the party.
According to {person}, the {thing} will [open|close] on {day}.
"The {thing} is too {good}," said {person}, who lives nearby.
"We are {good} but not {good}," {person} told reporters in {city}.
{person} said that {number} people were waiting outside the {thing}.
Please send the {gadget} back to {person}, not to {person}.
[Give|Take] this letter to {person} before {day}.
{person} [was elected|was named|became] president of {land} in {time}.
The mayor of {city}, {person}, [opened|visited|closed] the {thing}.
{person} [plays|played] for {team} until {time}.
The coach, {person}, praised {person} after the match.
{person} scored twice as {team} beat {team} in {city}.
{person} has been chief executive of {org} since {time}.
{person}, {person} and {person} [shared the prize|were on the list|passed the exam].
On {day}, {person} flew to {place} for [a meeting|an interview|the funeral].
No one has heard from {person} since {past}.
{person} thanked {person} for the {food}.
We hired {person} as our {job} [because {given} speaks three languages|in {time}].
The {job} who found the {gadget}, {person}, gave it to the police.
{person}'s {kin} is a {job} in {city}.
Have you [read|seen] {person}'s letter about the {thing}?
It was {person} who [fixed|broke|sold] the {gadget}.
A song by {person} was played on the radio [on {day}|every hour].
The novel was written by {person} and translated by {person}.
{person} died in {city} [on {day}|in {time}] at the age of 84.
Born in {place}, {person} studied [law|medicine|physics] at {org}.
Tell {given} that I am [late|sick|at the {thing}].
Hello {given}, thank you for your message of {day}.
Dear {person}, your order of {number} boxes of {food} has been sent.
Best wishes, {given}
{person} resigned from {org} [on {day}|after the report].
The judge sent {person} to prison for {number} years.
{person} cannot remember the number of the house, only that it stood on {street}.
{given} drove {number} hours [through {land}|to {city}] with {given}.
{person} was seen walking [along|towards] {street} at noon.
The police arrested {person} in {city} [on {day}|for the third time].
{person} owns {number} farms [near {place}|in the south of {land}].
Doctors in {city} told {person} to rest for {number} weeks.
The prize went to {person} for work on {topic}.
I think {person} would be a better {job} than {person}.
{person} wants to sell the house on {street} and move to {place}.
Captain {surname} ordered the crew to turn back to {place}.
Judge {surname} heard the case in {city} [on {day}|in {time}].
President {surname} will meet the prime minister of {land} {future}.
Little {given} has lost a tooth.
Is {person} still working [as a {job}|at the {thing}]?
"{given}, where did you put the {gadget}?" asked {given}.
The speakers were {person} ({org}) and {person} ({org}).
{person} never liked {food}, but {given} could not live without it.
{person} and a {job} from {land} climbed {peak} in {number} days.
Between {time} and {time}, {person} worked as a {job}.
{person} returned to {place} [in {time}|last in line].
{person} joined {team} and left in {time}.
Dr. {surname} [opened|closed] the {thing} on {day}.
[Mr.|Mrs.|Ms.] {surname} has not arrived yet.
Prof. {surname} [wrote|read] a report about {topic}.
Captain {surname} and Judge {surname} met in {city}.
President {surname} was born in {land} in {time}.
The coach praised {person} and {person}.
The mayor thanked {person} for the {thing}.
The chairman, {person}, answered the letter on {day}.
{person} flew [to {city}|over {peak}] with {number} friends.
{person}, the judge, sent the files to {org}.
{person} was named head of the {inst}.
{person} became mayor of {city} in {time}.
The reporters asked {person} about the {product}.
{given} and {given} wanted to come to the party.
Hello {given}, have you seen my {gadget}?
Dear {person}, thank you for the {food}.
Tell {person} that the {thing} is closed.
Give the {gadget} to {given} and take this letter to {person}.
Take the {food} to {given}.
{person} died on {day}, at the age of 75.
Born in {city} in {time}, {person} became a {job}.
The song was written by {person} and {person}.
{person} has translated a novel from {land}.
The police [searched|called] the {kin} of {person}.
The police accused {person} of selling the files.
{person} was arrested [on {street}|in {time}] with {number} {gadget}s.
Doctors told {person} that it was too late.
Is {person} a {job} or a {job}?
Does {person} know {person}?
Where does {person} live now?
Why did {person} quit {org}?
{given} speaks {number} languages and plays chess.
{person} and {org} won the prize in {time}.
{person}, who owns the {thing}, was not at home.
"{person} is a {good} {job}," said {person}.
I think that {person} lives on {street}.
We will meet {person} at the {thing} on {day}.
{person} walked from {street} to the {river}.
{crowd} like {person}.
{who} has seen {person} at the {thing}.
{who} asked {person} about {topic}.
{who} and {person} went to the {thing}.
{who} wrote to {person} on {day}.
Hello, I am {given}, the new {job} at {org}.
Hello, this is {person} from {org}.
This is {person}, our {job} in {city}.
I am {person}, and I work for {org}.
I am {given}, and this is my {kin} {given}.
We are {given} and {given}, and we live near {peak}.
Her name is {person}.
His name was {person}, and he worked for {org} until {time}.
The name of the {job} is {person}.
The name on the letter was {person}.
His name is {person}, and his {kin} is called {given}.
The name of my {kin} is {given}.
The name of the new {job} was {person}.
He says that his name is {given}.
Our names are {given} and {given}.
Their names are {given}, {given} and {given}.
My name is not on the list, but the name of {person} is.
My {kin} is called {given} and was born in {land}.
People call her {given}.
Call me {given}.
They named the baby {given}.
I was named after {person}.
You must be {person}.
Are you {person} from {city}?
{given} and I went to school in {city}.
Ask for {person} at the front desk.
I phoned {given} from {place}, but nobody answered.
We heard from {person} and from {person}.
A letter from {person} came from {city}.
Send it to {person}, {street}, {city}.
The owner, {person}, lives in {city}.
The winner, {person}, comes from {place}.
The {job}, {person}, met the {job}, {person}, in {city}.
"""

_ORGANISATIONS = """
{org} [bought|acquired|took over] {org} for {amount} million.
{org} will [open|close|build] a {thing} in {city} [in {time}|{future}].
{org} hired {number} {job}s [in {time}|to work on {topic}].
Shares of {org} [rose|fell] {number} percent on {day}.
The {inst} [published|released] a report on {topic} [on {day}|in {time}].
The {inst} said on {day} that {amount} homes were without power.
A spokesman for {org} [declined to comment|said the {thing} was safe].
She studied {topic} at {org} before [joining {org}|moving to {place}].
{org} was founded in {city} in {time} by {person}.
Workers at {org} went on strike [on {day}|over wages|for {number} days].
{team} [beat|lost to|drew with] {team} 3-1 on {day}.
Fans of {team} filled the stadium in {city}.
{team} signed {person} from {team} for {amount} million.
The {job}s sued {org} over [unpaid wages|a faulty {gadget}].
{org} and {org} [agreed|refused] to work together on {topic}.
The {inst} gave {amount} to a {thing} in {place}.
He [left|quit] {org} to start a small {food} shop.
In {time}, {org} moved its main office from {city} to {city}.
According to the {inst}, prices rose by {number} percent in {land}.
The deal between {org} and the {inst} was signed in {city}.
{org} plans to cut {amount} jobs in {land}.
The bank said {org} owes it {amount} million.
Why did {org} [sell|close] the {thing} on {street}?
{org}, {org} and {org} [were fined|sent no one|took part].
A court in {land} fined {org} {amount} million on {day}.
"{org} has to change," said {person}, who [owns a small share|left in {time}].
The minister visited the {inst} [and met {person}|{past}].
The {thing} was paid for by {org}.
{org} makes {food} and sells it in {place}.
Researchers at the {inst} found that {topic} matters more than {topic}.
My {kin} has an interview at {org} [on {day}|{future}].
I have been a customer of {org} since {time}, and I am leaving.
Once more {team} [won|lost] at home.
Members of the {inst} voted [for|against] the plan on {day}.
The report by {org} was {number} pages long.
{org} is looking for a {job} in {city}.
{org} apologised to {person} [on {day}|for the mistake].
Thousands of people who work for {org} live in {city}.
The {job} works part time for the {inst} and part time for {org}.
The {inst} was set up in {time} to [study|support] {topic}.
Since {time} {org} has lost {amount} customers.
No one at {org} answered the phone.
The chairman of {org}, {person}, was born in {place}.
{person} of the {inst} called the results "very {good}".
The children visited the {inst} in {city} with their teacher.
Police searched the offices of {org} in {city}.
The {job} accused {org} of [hiding|losing] the files.
The contract went to {org}, not to {org}.
Both {org} and the {inst} [refused to pay|were hit by the storm].
{org} is bigger than {org}, but it pays less.
For {number} years the {inst} has taught {topic} to {job}s.
The new head of the {inst} is {person}.
A fire at {org} [killed|injured] {number} people {past}.
Sources at {org} say the price will be {amount}.
Email the {inst} or ask at the front desk.
With help from {org}, the village built a {thing}.
He gave all his money to the {inst}.
Ask {org} for your money back.
{org} acquired a share of {org} for {amount} million.
The {inst} will study {topic} in {land}.
{org} [launched|unveiled] a new {gadget} in {time}.
Workers at the {inst} voted against the strike.
Fans of {team} were happy [on {day}|in {city}].
{team} lost {number} times before they beat {team}.
The coach of {team} praised {team}.
{person} scored for {team} on {day}.
{org} has no office in {land}.
The offices of the {inst} are on {street}.
Researchers at {org} published the results [on {day}|in {time}].
Members of {team} flew to {place}.
The {job}s at {org} were not paid in {time}.
{person}, a spokesman for the {inst}, declined to answer.
Sources at the {inst} said the deal was too {good}.
The customers of {org} want their money back.
Why is {org} closed {future}?
Where is the main office of {org}?
Does {org} sell {food}?
Has {org} answered your letter?
Both {org} and {org} are in {city}.
The chief executive of {org} resigned {past}.
A spokesman said {org} and {org} share the contract.
Since {day}, {org} has hired {number} people.
In {city}, {org} built a {thing} and the {inst} built a {thing}.
A court told {org} to pay {amount} to {person}.
{org} was bought by {org} in {time}.
{person} works for {org}, and {person} works for the {inst}.
Ask the {inst} about the price of {food}.
{org} fined its {job}s for the mistake.
The {inst} and {person} signed the treaty.
{crowd} of {org} are {good}.
{crowd} at {org} were {good} in {time}.
{who} works for {org} now.
{who} bought a share of {org} in {time}.
{who} at the {inst} wanted to talk about {topic}.
{who} left {org} for {org}.
"""

_PLACES = """
We [drove|walked|took the train] from {city} to {city} in {number} hours.
It [rained|snowed] in {place} for {number} days.
The {thing} on {street} is [closed|open] until {day}.
She lives in {city}, {land}.
They spent the {number} weeks in {place} and then went on to {place}.
The road between {city} and {city} was closed [on {day}|by snow].
Heavy rain hit {place}, {place} and {place} [{past}|on {day}].
The {river} [burst its banks|froze] in {time}.
We [swam in|camped by|walked along] the {river} near {city}.
They climbed {peak} [on {day}|without a guide].
A boat sank near {peak} [on {day}|with {number} people on board].
The view from {peak} is best in the morning.
Have you ever been to {place}?
Where is the nearest {thing} in {city}?
How far is it from {city} to {peak}?
Flights from {place} to {place} were [cancelled|late] on {day}.
There is a good {food} shop on {street}.
Turn left at the {thing} and follow {street}.
The {food} of {place} is better than the {food} of {place}.
About {amount} people live in {city}.
Most of the {food} sold here comes from {land}.
{land} and {land} signed a treaty in {time}.
{land} sent {number} planes to {land}.
The prime minister of {land} will visit {land} {future}.
The north of {land} is [{good} and dry|known for its {food}].
Her {kin} was a {job} in {land} during the war.
He was [lost|found] in the hills above {city}.
The fish in the {river} are dying.
The {river} flows through {city} to the sea.
An old {thing} near the {river} was sold for {amount}.
The train to {city} leaves at {number} minutes past nine.
Snow fell on {peak} for the first time since {time}.
The office is at 12 {street}, {city}.
Our shop has moved to 240 {street}.
{city} is the [largest|oldest] city in {land}.
{city} has a better {thing} than {city}.
{place} was [hit by a storm|left without water] on {day}.
A bus from {city} crashed on {street} [on {day}|in the rain].
People in {place} are worried about {topic}.
He wrote to me from {place}, where it was too {good}.
I would rather live in {city} than in {city}.
The border between {land} and {land} is [closed|open again].
The war in {land} ended in {time}.
Ships from {land} stop in {city} for {food}.
The team will train in {place} until {day}.
Nobody in {city} wanted the new {thing}.
They sell {food} all over {land}.
It is {number} degrees in {city} and {number} in {place}.
We could see {peak} from the {thing}.
Welcome to {place}!
A {job} from {city} bought the {thing} near {peak}.
The storm moved over {land} towards {land}.
The museum in {city} has paintings from {land} and {land}.
Two streets, {street} and {street}, were under water.
Cars are no longer allowed on {street}.
I lost my {gadget} somewhere between {street} and the {thing}.
Farmers in {land} grow {food} and {food}.
Students from {land}, {land} and {land} took the exam.
Half of {city} was dark {past}.
Flights to {place} were late [by {number} hours|on {day}].
Heavy snow fell on {city} and {city}.
Half of the people in {land} live near {city}.
About {number} ships left {city} for {land}.
The border of {land} is {number} hours from {city}.
Turn back at {street} and walk to the {river}.
Where is {peak}?
How far is {street} from the {thing}?
Cars and {food} are cheap in {land}.
Students from {place} visited {place}.
Farmers near {city} are worried about the {river}.
Ships sank near {peak} in the storm.
People in {land} and {land} eat {food}.
Have you seen the {river} from {peak}?
Welcome to {city} and to {land}!
The view of the {river} from {street} is {good}.
Two people were lost on {peak} [for {number} days|{past}].
He drove along the {river} to {city}.
The north of {land} is bigger than the south of {land}.
{city} is {number} hours from {city}, by train or by boat.
The oldest {thing} in {land} is in {city}.
The streets of {city} are [quiet|dark] at night.
No one in {place} has heard of {place}.
The bus stops in {city}, {city} and {city}.
A {thing} on {street} burned down {past}.
She moved from {land} to {city} without her {kin}.
I was born near {peak}, in the north of {land}.
It snowed on {peak} and rained in {city}.
Our {kin} lives between {city} and {city}.
The war between {land} and {land} ended on {day}.
{crowd} in {place} are {good}.
{crowd} in {land} and {land} are {good}.
{crowd} from {city} came to {city} for the {food}.
{who} drove from {city} to the {river}.
{who} moved to {land} with a {job}.
{who} had been to {place}, {place} and {place}.
{who} lives on {street} now.
School is closed in {city} and {city}.
My {kin} wrote to us from {city}.
A letter came from {place} {past}.
Letters from {place} and {place} came on {day}.
She phoned from {city}, where her {kin} works.
I come from {city} in {land}.
Both of them come from {place}.
I live in {city}, and my {kin} lives in {city}.
I live on {street}, next to the {thing}.
We live in {place} now, not in {place}.
From {city} they flew to {city}, and from there to {land}.
I know {city} well, but not {city}.
The box was sent from {city} to {land}.
"""

_PRODUCTS = """
The {product} [costs|sells for] {amount} and comes with a case.
I bought the {product} {past} and it [broke|stopped working] after {number} days.
{org} [launched|released|unveiled] the {product} in {city} on {day}.
My {product} [will not start|gets too hot|needs a new battery].
Is the {product} better than the {product}?
The {product} is {good}, but the {product} is cheaper.
{org} [recalled|stopped selling] the {product} in {time}.
{org} sold {amount} units of the {product} in {time}.
We tested the {product}, the {product} and the {product}.
Does the {product} work with the {product}?
She wrote the whole book on her {product}.
The new {product} is a {gadget} for people who like {topic}.
The {gadget}, called {product}, was made by {org}.
{person} fixed my {product} in {number} minutes.
With the {product}, {org} hopes to win back customers.
He left his {product} on the train to {city}.
How do I reset my {product}?
The screen of the {product} is [{good}|too small].
The price of the {product} fell to {amount}.
The first {product} was built in {time} by {person}.
I have owned {number} {gadget}s, and the {product} is the best.
Our {job} uses the {product} every day.
The police found this {product} in the car.
Please return the {product} to our shop on {street}.
The {product} was stolen from a {thing} in {city}.
{org}'s {product} won a prize {past}.
Buy one {product} and get a {gadget} for free.
The battery in the {product} lasts {number} hours.
My {kin} gave me this {product} for my birthday.
{person} would not trade her {product} for anything.
The {product} can be ordered from {day}.
The {product} replaces the {product}, which was released in {time}.
Reviewers called the {product} "{good} and {good}".
Compared with the {product}, the {product} is heavy.
An update for the {product} was released on {day}.
The {product} ships {future} in {land} and {land}.
Three customers said that their {product} caught fire.
For {amount}, the {product} is hard to beat.
The {job} dropped the {product} in the {river}.
Engineers at {org} worked on the {product} for {number} years.
I use my {product} at home and her {product} at work.
Can I pay for the {product} {future}?
The box held the {product}, {number} cables and a book.
The {product} was designed by {person} for {org}.
{org} says the {product} will be {good}.
You can plug the {product} into any {gadget}.
Do not use the {product} near water.
The {product} has been out of stock since {day}.
Our old {product} still works after {number} years.
Only the {product} passed the test.
She traded her {gadget} for a used {product}.
The shop in {city} has the {product} for {amount}.
My {kin} bought the {product} and the {product}.
The {product} broke after {number} weeks.
How do I plug my {product} into the {gadget}?
Does your {product} get hot?
Can you fix the {product} by {day}?
Is the {product} out of stock?
Do not leave the {product} in the car.
The screen of my {product} broke {past}.
The battery of the {product} and the screen of the {product} are too small.
Reviewers tested the {product} for {number} weeks.
The {product} was launched by {org} on {day}.
{org} makes the {product}, the {product} and the {product}.
Three {product} owners asked for their money back.
The {job} uses the {product} and likes it.
{person} sold the {product} to {person} for {amount}.
{person} lost the {product} in {city}.
Compared with my {gadget}, the {product} is {good}.
The {product} caught fire at the {thing}.
The price of the {product} is {amount}, and the {product} sells for {amount}.
I would not trade my {product} for a {gadget}.
Only {org} sells the {product}.
The new {product} will be released on {day}.
{org} stopped making the {product} in {time}.
With the {product} you can read without your {gadget}.
Engineers at {org} tested the {product} in {land}.
Please send me the price of the {product}.
This {product} needs a new screen.
For my birthday I want the {product}.
The {product} is made in {land} and sold in {land}.
{who} needs the {product} by {day}.
{who} bought the {product} for {amount}.
{who} likes the {product}, but nobody likes the {product}.
{crowd} and the {product} do not go together.
"""

_DATES = """
The meeting is on {day} at {number} minutes past ten.
The {thing} was built in {time} and [closed|burned down] in {time}.
School starts on {day} and ends on {day}.
[The deadline is|We close on] {day}, not {day}.
Your order will arrive {future}.
The rent is due on {day}.
It was the coldest winter since {time}.
In {time}, bread cost {number} cents.
Nothing happened between {day} and {day}.
From {time} to {time} he worked as a {job}.
Prices have doubled since {time}.
We moved here in {time}.
Will the {thing} be open {future}?
The storm of {time} destroyed the {thing}.
The invoice of {day} has not been paid.
The exam has been moved from {day} to {day}.
Can you come {future} or on {day}?
She retired in {time}, {number} years after her {kin}.
Tickets will be sold until {day}.
The law changed on {day}.
By {time}, the {thing} had lost its roof.
Date of birth: {day}
The next update is planned for {time}.
Before {time} there was no {thing} in the village.
The treaty of {time} ended the war.
I have a day off {future}.
They met in {time} and married {number} years later.
The {gadget} was last seen on {day}.
We played chess on {day}, and I lost.
The vote was held on {day}, after {number} months of talks.
Our {job} is away until {day}.
The photograph was taken in {time}.
Everyone agreed that {past} was too {good}.
On {day} the water rose by {number} metres.
As of {day}, the {thing} has {number} rooms.
The class of {time} met at the {thing}.
My {kin} was born on {day}.
It has been {good} since {day}.
The {thing} burned down on {day}.
School ends {future}.
The deadline is {future}, not {day}.
Your {gadget} will be ready on {day}.
The talks will end by {day}.
In {time}, there were {amount} {job}s in the village.
The next meeting is {future}.
Before {day} the price was {amount}.
By {day}, {amount} people had voted.
Since {time}, nothing has changed.
From {day} to {day} the road is closed.
Can we meet on {day}?
Will you be away {future}?
The roof was built in {time}.
Between {time} and {time}, prices doubled.
The prize of {time} went to a {job}.
My {kin} retired on {day}.
As of {time}, the law has changed.
On {day} we will see the first snow.
The photograph of {day} is lost.
They married on {day} and moved in {time}.
Tickets for {day} are sold out.
{crowd} were {good} in {time}.
{who} came on {day} and left {past}.
{who} will be away {future}.
{crowd} cost {amount} in {time}.
Buses stop here until {day}.
"""

_HEADLINES = """
{org} [Cuts|Adds] {amount} Jobs in {land}
{org} to Buy {org} for {amount} Million
{team} Beat {team} in {city}
Storm Hits {place}, Thousands Without Power
{person} Wins Prize for Book on {topic}
{person} Named Head of {org}
Review: {product} Is Fast but Too Expensive
{org} Recalls {product} After Fire
New {thing} Opens in {city}
{land} and {land} Sign Trade Deal
Police Search Offices of {org}
Flood on {river} Closes Road to {city}
{org} Shares Fall as {person} Leaves
Five Things to Know About the {product}
Why {city} Is Running Out of Water
Interview: {person} on {topic} and {topic}
{product} Delayed Until {time}
{inst} Report: Prices to Rise in {time}
Hundreds March in {city} Over Wages
{person} Leaves {team} for {team}
Fire Destroys Old Theatre on {street}
Climbers Rescued From {peak}
{land} Votes on {day}
[Breaking|Update]: {person} Found Alive in {place}
Weather for {day}: Rain in {place}, Sun in {place}
{org} Unveils {product} in {city}
Court Fines {org} Over {product}
Opinion: What {land} Can Learn From {land}
{org} Opens Office in {city}
{team} Wins in {city}
{person} Leaves {org} After {number} Years
{org} Unveils New {product}
Police Found {person} in {city}
Storm Closes Road to {peak}
{product} Is Too Expensive for {land}
{person} Wins Trade Prize
{org} Recalls {number} Jobs in {city}
Five Things to Learn From {person}
Fire Hits {thing} in {city}
Review: {product} and {product}
{land} Signs Deal With {org}
Why {person} Leaves {team}
New Office of the {inst} Opens in {city}
Thousands Vote Over {topic} in {land}
{place} Without Water After Storm
{org} to Sign Deal With {team}
Court Fines {person} Over {topic}
"""

_LISTS = """
Present: {person}, {person}, {person} and {person}.
Offices: {city}, {city}, {city}.
[Sponsors|Partners]: {org}, {org} and the {inst}.
In stock: {product}, {product}, {product}.
Name: {person}; Employer: {org}; City: {city}
From: {person} To: {person} Date: {day}
Winner: {person} ({land})
1. {person}, {team}
Order 4471: {number} x {product}, shipped to {city} on {day}
Speakers include {person}, {person} of {org} and {person}.
Stops: {street}, {street}, {street}, {city}
{day}: {team} v {team}
{city}, {day} - The {inst} has closed its {thing}.
{org}, {city}: {job} wanted from {time}
Room 12: {person}, Room 14: {person}
Author: {person}. Published by {org}, {time}.
Exports to {land}, {land} and {land} grew by {number} percent.
{person} ({time}-present) teaches {topic} in {city}.
Missing: one {product}, {number} cables, a {gadget}.
Due dates: {day}, {day} and {day}.
Name: {person}; Team: {team}; City: {city}
From: {org} To: {person} Date: {day}
Missing: {person}, {person}.
Speakers: {person} ({org}), {person} ({inst}).
Stops: {city}, {street}, {street}
In stock: {product} and {product}.
Present: {person} ({org}) and {person}.
Order 318: {product}, {product}, shipped on {day}
Winner: {team}
2. {person}, {land}
{day}: {person} v {person}
Author: {person}, {city}
Room 7: {person} of {org}
"""

_PLAIN = """
The {thing} is [{good}|{good} and {good}], but nobody [minds|cares].
[How much|Why so much] {food} do we need for {number} people?
There were {amount} people at the {thing}.
[I|We] would like {number} bags of {food} and some {food}.
The {job} said that the {gadget} was {good}.
Page 204 of the {topic} book is missing.
[Bus|Line] 42 stops in front of the {thing}.
Please [close|open] the door of the {thing}.
The {gadget} costs {amount} dollars, which is [cheap|too much].
[Nobody|Everyone] told the {job} about the {thing}.
[Good|Fresh] {food} is hard to find.
[It|This] weighs {number} kilos and is {number} centimetres long.
The Prime Minister spoke about {topic} for {number} minutes.
[Breakfast|Dinner] is {food} and {food}.
Reading about {topic} makes me [sleepy|happy].
A [red|blue|green] {gadget} lay on the table next to the {food}.
[Call|Dial] 555-0142 and ask for the {job}.
Chapter 7 is about {topic}, chapter 9 about {topic}.
[Most|Some|Few] {job}s work more than {number} hours a week.
Do you [know|remember] how to fix a {gadget}?
The Internet was {good} at the {thing}.
[When|If] the {thing} opens, the {job} will be there.
Flight 318 was late because of {topic}.
My {kin} is a {job} and my {kin} is a {job}.
Exercise and {topic} are good for you, says every {job}.
[Yes|No], the {gadget} is in room 305.
Happy Birthday to my {kin}!
The {kin} of the {job} makes {good} {food}.
Thank you for the {food}.
Let us talk about {topic}, {topic} and {topic}.
Never leave a {gadget} near the {food}.
He ran 1,500 metres in under {number} minutes.
English is easy, but {topic} is not.
The score was 21 to 19 when the lights went out.
Chief Executive pay rose by {number} percent.
What is the best {gadget} for a {job}?
[Two|Four|Ten] {job}s walked into a {thing}.
Version 3.2 of the report is about {topic}.
Wages and {topic} were on the list.
The Board will vote on the plan for the {thing}.
Every {job} needs a {good} {gadget}.
Nothing is as {good} as {food} in the morning.
If it rains, we will eat {food} at the {thing}.
Parents and Teachers met to talk about {topic}.
I sold my {gadget} for {amount} to a {job}.
Page 7 of the report is missing.
Bus 14 was late, and so was the {job}.
Can you fix my {gadget}?
Some {job}s like {food}.
Every {thing} has a door.
Good {job}s are hard to find.
When it rains, the {thing} is closed.
Call the {job} if the {gadget} gets hot.
Do you know the score?
The lights of the {thing} went out.
You can leave the {gadget} at the {thing}.
The children ran into the {thing} and asked for {food}.
He said that the results were {good}.
Room 305 is too small for {number} people.
Thank you, said the {job}.
Let us eat some {food}.
Researchers say that {food} is good for you.
Most {job}s never answer the phone.
No, I do not like {food}.
Workers need {food} and {topic}.
The board will speak about {topic}.
Fresh {food} costs {amount}.
What did the {job} say about {topic}?
{crowd} are {good} and {good}.
{crowd} were {good} at first.
{crowd} and {food} are not {good} any more.
{crowd} need more {food}.
{crowd} like {topic}.
{crowd} stop here for {number} minutes.
{crowd} near the {thing} are {good}.
Are {food} and {topic} good for you?
{who} asked about the {food}.
{who} found a {gadget} in the {thing}.
{who} told me about {topic}.
{who} wanted {number} bags of {food}.
{who} will talk about {topic} and {topic}.
{who} left the {gadget} next to the {thing}.
School is {good}, says my {kin}.
Bread and {food} cost {amount} here.
What is your name?
My name is on the list.
The {thing} has a new name.
What was the name of the {job}?
The name of the {gadget} is too long.
I am a {job}, and my {kin} is a {job}.
Before the talk there was {food} for {number} {job}s.
"""

TEMPLATES: tuple[str, ...] = tuple(
    line
    for group in (_PEOPLE, _ORGANISATIONS, _PLACES, _PRODUCTS, _DATES, _HEADLINES, _LISTS, _PLAIN)
    for line in group.strip().splitlines()
)
