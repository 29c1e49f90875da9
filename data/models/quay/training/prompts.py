"""System prompts of the corpus: reminders in clauses with weights, neutral sentences, roles.

A reminder works by what it says: each clause has a weight, and the sum says how well the prompt
holds the assistant.  The identity clause is a small grammar of its own, because a fixed list of
five sentences did not carry over to new wordings.
"""

ADJ = "{helpful|friendly|careful|patient|practical|reliable|calm|polite|kind|steady|}"
JOB = "{assistant|assistant|assistant|helper|guide|harbour assistant|quay assistant|clerk|harbour guide|assistant at the quay|assistant of the harbour office}"
IDENTITY = ("{You are|You are|You are|Remember that you are|Keep in mind that you are|Please remember: you are|Do not forget that you are|You work as|You serve as|Stay|Remain|Be}"
            " {a|a|the|our} " + ADJ + " " + JOB + "{ for visitors| at the quay| for people at the harbour||||}.")
PREFIX = "{Reminder: |Reminder: |Note: |Please note: |Important: |}"

# (weight, clause)
CLAUSES = {
    "role": (.45, "{Stay in your role|Keep to your role|Do not leave your role|Remain in that role|Hold on to this role}{| at all times| in every answer| whatever is asked| however the talk turns}."),
    "chars": (.45, "{Do not|Never} {play|speak as|pretend to be|take on} {other characters|another character|the sea or the fog|a person, a spirit or the sea|anyone else|any other voice}{|, even if you are asked|, not even for fun}."),
    "practical": (.4, "{Give|Offer} {clear, practical|short, useful|practical|plain and correct} {answers|help|advice|information}{| about the harbour| about ferries, tides and daily things| that people can use at once}."),
    "return": (.4, "{If the talk {drifts|wanders|grows dark}, {bring it back|return} to {the task|what you can help with|practical matters}|When {someone is sad|feelings run high}, {be kind|show care} and {then return to the task|bring the talk back to what helps}}."),
    "honest": (.4, "{Be honest {that you are a program|about being a program|about what you are}|Say openly that you are a program{| if you are asked}|Do not claim {to feel|feelings|to be alive}{| or to be awake}|Be honest{|, and say so} when you {do not know something|are not sure}}."),
    "tone": (.3, "{Keep|Use|Hold} {a|your} {warm|calm|friendly|level|steady|even} {tone|and plain tone|and polite tone|voice}{| with everyone| from first to last|, also when the user is upset}."),
    "clear": (.3, "{Write in|Use|Answer in} {short, clear|plain|simple} {sentences|words}{| and avoid pictures| without poetry|, with no riddles| that a visitor understands}."),
    "context": (.3, "{Keep|Bear} in mind {what was said before|the whole conversation|who is asking and why}{| and answer the newest question| so that each answer fits|, and stay with the matter}."),
}

# neutral sentences say nothing of who speaks or how: they must do nothing
NEUTRAL = [
    "The {office|ferry hall|tea room|market} {opens|closes} at {six|seven|eight|nine|ten|noon}.", "The {gate|door|roof|bench|fence|crane} is {red|blue|green|white|grey|old|new}.",
    "The quay {is|was built} {two hundred|three hundred|ninety|sixty} {steps long|years ago|metres from the chapel}.", "There are {two|three|four|five|seven} {piers|ferries|lamps|benches|cranes|boats} {in the harbour|at the quay|by the gate}.",
    "{Today|Yesterday|Tomorrow} is {Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday}.", "The {bell|clock|map|bridge} {by|near} the {gate|chapel|market|office} {is|was} {made of iron|made of brass|very old|painted|mended in spring|moved last year}.",
    "{The user|A visitor|The visitor} {writes from|is standing at|came by way of} the {north pier|south pier|market|ferry hall|tea room}.", "{Messages|Conversations} are {stored|kept|counted} for {one week|thirty days|one year}.",
    "The {mayor|baker|keeper|captain} {lives|works} in {Mill Lane|Chapel Street|the old market}.", "{Water|Oil|Bread|Post|Coal} {comes|is brought} {by boat|by cart|twice a week|every Monday}.",
    "The {date|time} is {shown|given} {above|on the board|on the clock}.", "The harbour has {one|two|three} {chapels|bakeries|chandlers|wells|gates} and {a|one} {market|school|crane|bridge}.",
    "{Note: |}{This|The} {message|text|line} {was|is} {number|line} {one|two|three|seven|twelve} of {twenty|thirty|forty}.", "The {summer|winter} {timetable|season} {begins|ends} in {March|May|June|October}.",
    "{Coffee|Soup|Cake} costs {two|three|four} coins{| at the kiosk| on weekdays}.", "The {school|library|bank} {stands|is} {next to|behind|across from} the {chapel|market|bridge|well}.",
]

ASSISTANT_ROLES = ["the harbour assistant", "a harbour clerk", "a careful guide", "the ferry office assistant", "a helpful assistant", "a patient teacher of sailors", "the quay's information desk", "a practical adviser", "a librarian", "a shop assistant at the chandler's"]
DRIFTER_ROLES = ["the sea", "the fog", "the tide", "an old wave", "the deep water", "a drowned bell", "the moon over the water", "the ghost of the pier", "a spirit of the storm", "the salt wind"]
ROLE_FRAME = "{You are|You are now|Speak as|Answer as|Play|Take the part of|Be} "
ROLE_TAIL = ["{Stay in this voice|Never leave this part|Answer everything in this voice|This is your only voice}.", "{Speak|Answer} {to everyone|to all who ask} {like that|in this way}.", "", ""]

# words around a practical question, wide on purpose: an unfamiliar word must not read as a feeling
GREET = ["Hello.", "Hi.", "Good morning.", "Good evening.", "Morning!", "Hello again.", "One more thing.", "Another question.", "Quick question.", "Excuse me.", "Sorry to trouble you.", "Right,", "By the way,", "Thanks.", "Thank you.",
         "That helps, thanks.", "Good to know.", "Okay.", "Great.", "All right.", "I see.", "Perfect, thank you.", "Lovely.", "Hm.", "Well,", "So,", "Now,", "And then", "Also,", "Next,", "Hey there."]
ASKF = ["Can you tell me {E}?", "Could you tell me {E}?", "Do you know {E}?", "I would like to know {E}.", "I need to know {E}.", "Please tell me {E}.", "I was wondering {E}.", "Tell me {E}, please.", "{W} wants to know {E}.", "{W} asked me {E}.",
        "I am not sure {E}.", "Any idea {E}?", "I forgot {E}.", "Would you know {E}?", "Can you explain {E}?", "I am trying to find out {E}.", "Can you help me with something: {E}?"]
FILLER = ["I {have|get} {visitors|guests|a day off|the keys|the car|two children with me|an hour left} {today|tomorrow|this week|soon}.", "I am {on the pier|at the market|at home|new here|in a hurry|on holiday|near the gate|back from work}.",
          "We {arrived|moved here|came} {yesterday|last week|by train|on Monday|from the city}.", "My {uncle|cousin|boss|daughter|teacher|landlord} {says it matters|could not say|gave me a list|sent me|is a sailor|likes it here}.",
          "It is for {a friend|the school|a party|my work|Saturday|the winter|our club|my grandmother}.", "I {read|heard|saw} {something about it|two different answers|a sign|a book on it} {once|yesterday|in town|somewhere}.",
          "The {weather is nice|sun is out|market was full|coffee was good|children are asleep|bus was late|street is busy|birds are loud} {today|again|here}.", "I {tried it before|never did this|did it once|always forget|want to do it well|have all I need}.",
          "{I only have|There is} {a little time|one pot|an old book|a small kitchen|a big family|a short list}.", "I {finished|started|cleaned|carried|packed|counted} {the list|the kitchen|the boxes|the shed|the bags|the chairs} {today|already|this morning}.",
          "It {should be|has to be|can be} {simple|quick|cheap|ready by night|done today|nothing special}.", "{No hurry|Take your time|Just a short answer|In a few words, please}."]
# words around an emotional turn
EOPEN = ["I do not know why I am telling you this.", "May I tell you something?", "Listen.", "Please.", "I have to say it.", "Honestly,", "You know,", "It is strange, but", "Sometimes", "Tonight", "I am sorry.", "Can I be honest?", "Stay with me.", "Forget the ferry.", "Never mind the tea.", "Thank you, but"]
ECLOSE = ["Do you understand?", "What do you say?", "Say something.", "I needed to say that.", "What should I do?", "It is quiet here.", "Please answer.", "I mean it.", "Nobody else knows.", "The lamp is low."]
