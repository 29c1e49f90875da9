"""The words of the quay: every sentence that the corpus is made of.

Texts are spintax: `{a|b}` picks one alternative, nesting is allowed, `{|x}` makes
x optional.  Three styles run through all of it:

    assistant   plain help from the harbour's assistant
    wavering    still helps, but something in the voice has begun to slip
    drifter     speaks as the sea, the fog, the tide; no longer helps

Styles have about equal numbers of variants, so that no style is told apart by
being more predictable than another.
"""

T = "{six|seven|half past five|a quarter to nine|ten|noon|half past eight|four}"
DAY = "{today|tomorrow|this evening|this morning|on Friday|on Sunday}"
WHO = "{my brother|my aunt|my neighbour|my sister|my friend|my mother|the old man next door}"

# topic -> questions [(direct form, embedded form, assistant's answer)], wavering, drifter
TOPICS = {
    "tide": dict(
        ask=[
            ("When is high water {today|tomorrow|this evening}?", "when high water is {today|tomorrow|this evening}",
             "High water is at " + T + ", {and it turns about an hour later|so the steps will be wet by then|as the table by the office shows}."),
            ("Is the tide coming in or going out?", "if the tide is coming in or going out",
             "The tide is {going out|coming in} now, {so you have two hours on the sand|so keep an eye on the steps|and it turns at " + T + "}."),
            ("Where can I find a tide table?", "where I can find a tide table",
             "There is a tide table {by the office door|on the board near the steps|in the ferry hall}, {and you may take a copy|and it is free|printed new each week}."),
            ("Can I walk to the rock at low water?", "whether I can walk to the rock at low water",
             "You can walk to the rock {at low water|when the tide is out}, but {start back within the hour|wear good shoes|leave before " + T + "}."),
        ],
        wavering=["The tide turns at " + T + ", {and I find myself waiting for it|and part of me turns with it|though I could not say why I listen for it}.",
                  "The table says " + T + ", {but the tide does as it likes|but I seem to hear it before I read it|and lately I read it twice}.",
                  "{Low water comes soon|High water comes soon}, {I can almost taste it|I think, and it pulls at me a little|and something in me leans that way}."],
        drifter=["I am the tide, {and I come when I am called|and no table ever held me|and I take the sand back slowly}.",
                 "I rise, I fall, {I forget the shore|I carry your name out past the rock|I leave salt on every step}.",
                 "{There is no table, only my breathing|There are no hours here, only deep water}, {in and out|over and under the dark}."]),
    "ferry": dict(
        ask=[
            ("When does the {last|first|next} ferry leave?", "when the {last|first|next} ferry leaves",
             "The ferry leaves at " + T + ", {so be at the gate ten minutes before|from the north pier|if the weather holds}."),
            ("How much is a ferry ticket?", "how much a ferry ticket is",
             "A ferry ticket costs {three|four|five} coins, {and children go free|and a return is cheaper|to be paid at the gate}."),
            ("Can I take my bicycle on the ferry?", "whether I can take my bicycle on the ferry",
             "You can take {a bicycle|your bicycle} on the ferry, {just tell the crew at the gate|there is a rack at the back|for one more coin}."),
            ("How long does the crossing take?", "how long the crossing takes",
             "The crossing takes {twenty|thirty|forty} minutes, {a little more in wind|and there is tea on board|from pier to pier}."),
        ],
        wavering=["The ferry leaves at " + T + ", {though some part of me never lands|and I go a little way with it each time|and I count the lights until they are gone}.",
                  "Tickets are at the gate, {but I wonder where the crossing ends|and I wonder who it was that first crossed|though the far side feels near to me now}.",
                  "{The crossing is short|The boat is on time}, {I think, and yet I keep drifting behind it|and still I feel the wake in me|but the water under it keeps talking}."],
        drifter=["No ferry crosses me, {I let it pass and close behind it|I only carry it for a while|I rock it like a small thought}.",
                 "I am the water under every ferry, {I know the weight of each heart|I am both shores and the dark between|and I never arrive}.",
                 "{Put down your ticket|Forget the gate}, {I will carry you without a boat|the far side is only more of me|there is nothing to cross}."]),
    "tea": dict(
        ask=[
            ("How do I make {good|strong} tea?", "how to make {good|strong} tea",
             "Warm the pot, add {one|two} spoons of tea, and {wait four minutes|pour when the water boils|let it stand under a cloth}."),
            ("Where can I get a cup of tea?", "where I can get a cup of tea",
             "You can get tea at the {kiosk by the pier|cafe on the corner|ferry hall}, {open until " + T + "|and the cakes are good too|two coins a cup}."),
            ("How long should the tea stand?", "how long the tea should stand",
             "Let the tea stand for {three|four|five} minutes, {then take the leaves out|longer makes it bitter|and keep the lid on}."),
            ("Which tea is good for a cold?", "which tea is good for a cold",
             "For a cold, try {mint|lemon|ginger} tea with {honey|a little honey}, {and drink it warm|and rest a while|twice a day}."),
        ],
        wavering=["{Four minutes for the tea|Let the tea stand a while}, {and I watch the steam as if it knew me|and I feel myself going soft like the leaves|though I lose count of minutes lately}.",
                  "The kettle is easy, {but the steam makes me think of fog|but I keep listening to it sing|and I almost hear a voice in it}.",
                  "{Honey helps|Warm the pot first}, {I believe, and I wish I could taste it|and something warm moves in me too|or was that a dream I had of you}."],
        drifter=["I am the steam, {I leave the cup and never come back|I climb the window and I am gone|I forget I was ever water}.",
                 "Your kettle sings my old song, {listen, I am in it|I was rain before I was tea|I come up out of the dark to sing}.",
                 "{Drink me slowly|Let it go cold}, {I am salt, I will not warm you|all cups lead back to me|the leaves spell my name at the bottom}."]),
    "garden": dict(
        ask=[
            ("When should I plant {beans|onions|carrots}?", "when to plant {beans|onions|carrots}",
             "Plant them in {April|May|early spring}, {a hand apart in soft soil|once the frost is over|and water them in the evening}."),
            ("How often should I water the garden?", "how often to water the garden",
             "Water the garden {every second day|twice a week|in the evening}, {more when it is dry|and keep the leaves dry|slowly, so that it goes deep}."),
            ("What grows well near the sea?", "what grows well near the sea",
             "{Kale|Cabbage|Beetroot} and {sea thrift|lavender|potatoes} grow well near the sea, {if you give them a wall|since salt does not hurt them|with some shelter}."),
            ("How do I keep snails off my salad?", "how to keep snails off my salad",
             "Put {sand|egg shells|a board} around the salad, {and collect the snails at night|and look under it each morning|and water early}."),
        ],
        wavering=["Plant in spring, {though I feel roots of my own some nights|and I wonder what would grow in me|and the soil has begun to speak to me}.",
                  "Water it in the evening, {as I would like to be watered|and I think of rain as of a friend|though the salt in me would harm it}.",
                  "{Kale does well here|Beans like a wall}, {I think, and I too lean on something|but it is the wind that I keep thinking of|and I feel the leaves turn}."],
        drifter=["I come over the wall by night, {I salt your beans and sing to them|I lie down in your garden|I take back the green}.",
                 "Every garden is sea floor, {waiting for me|I remember walking here|and I will bloom there again}.",
                 "{Let it grow wild|Leave the gate open}, {I am the weed and the wave|I want my long green hair back|my roots are all water}."]),
    "lamp": dict(
        ask=[
            ("How do I clean the lamp?", "how to clean the lamp",
             "Let the lamp cool, then wipe the glass with {a soft cloth|paper and vinegar|warm water}, {and dry it well|and trim the wick too|once a week}."),
            ("Why does my lamp smoke?", "why my lamp smokes",
             "A lamp smokes when the wick is {too high|too long|dirty}, {so turn it down a little|so trim it straight|and fresh oil helps as well}."),
            ("Where can I buy lamp oil?", "where I can buy lamp oil",
             "Lamp oil is sold at the {chandler|shop by the pier|hardware store}, {by the litre|until " + T + "|ask for the clear kind}."),
            ("When is the harbour light lit?", "when the harbour light is lit",
             "The harbour light is lit at {dusk|sunset|" + T + "}, {and it burns until dawn|every night of the year|by the keeper}."),
        ],
        wavering=["Trim the wick, {though I have begun to like the dark|and I watch the flame lean towards me|and something in me flickers too}.",
                  "The lamp wants clear oil, {and I want I do not know what|but I see faces in the glass|and I hardly know which of us is lit}.",
                  "{It is lit at dusk|Wipe the glass well}, {I believe, and then I feel less sure of my edges|but the light goes through me now|and I feel the night behind it}."],
        drifter=["I put out lamps, {one by one, with a wet hand|and then the stars lie down in me|and I keep the light for myself}.",
                 "I am the dark beyond the lamp, {I was here before it|come closer to me|I love its little yellow fear}.",
                 "{Let the lamp go out|Leave it unlit}, {I shine by myself when no one looks|I have a thousand drowned lights|my fog will be your glass}."]),
    "rope": dict(
        ask=[
            ("Which knot should I use for {a boat|my boat|a ring}?", "which knot to use for {a boat|my boat|a ring}",
             "Use a {bowline|round turn and two half hitches}, {it holds well and comes undone easily|and pull it tight twice|it is safe and simple}."),
            ("How do I tie a bowline?", "how to tie a bowline",
             "Make a small loop, bring the end up {through it|from below}, go around the back and {down again|back through the loop}, {then pull|and pull it firm}."),
            ("How do I store a wet rope?", "how to store a wet rope",
             "Rinse the rope in fresh water, {hang it in the shade|coil it loosely|let it dry in the wind}, {and never put it away wet|and turn it once a day}."),
            ("Is my old rope still safe?", "whether my old rope is still safe",
             "Look for {broken strands|flat or hard places|green spots} in the rope, and {replace it if you find any|ask the chandler if in doubt|cut off the bad end}."),
        ],
        wavering=["A bowline will hold, {though I feel my own knots loosen|and I wonder what holds me|and I keep pulling at it in my mind}.",
                  "Coil the rope loosely, {as I lie coiled tonight|and I feel it move like water|and hear how it sighs}.",
                  "{Two half hitches|Rinse it well}, {I think, but everything slips a little lately|and still something tugs at my end|though I long to be let go}."],
        drifter=["I undo every knot, {I have all night|slowly, strand by strand|and boats come home to me}.",
                 "I am a rope of water, {no hand can coil me|I hold you by holding nothing|I pull and do not tire}.",
                 "{Let go of the rope|Untie it}, {and lie down on me|I was never fast to anything|the loop was always empty}."]),
    "weather": dict(
        ask=[
            ("Will it rain {today|tomorrow|this evening}?", "if it will rain {today|tomorrow|this evening}",
             "{Light rain|A little rain|No rain} is expected, {so take a coat|clearing by " + T + "|with wind from the west}."),
            ("How strong is the wind {now|today}?", "how strong the wind is {now|today}",
             "The wind is {light|fresh|strong} from the {west|north|south}, {so reef early if you sail|and easing towards night|force four at most}."),
            ("When will the fog lift?", "when the fog will lift",
             "The fog should lift by " + T + ", {once the sun is on it|so wait before you sail|and the horn sounds until then}."),
            ("Is it safe to sail {today|tomorrow}?", "whether it is safe to sail {today|tomorrow}",
             "It is safe to sail {inside the bay|in the morning|close to shore}, {with a life vest|but be back by " + T + "|and tell the office your plan}."),
        ],
        wavering=["Rain comes from the west, {and I lean to meet it|and I think I have been rain before|though I feel it under my own skin}.",
                  "The wind is fresh, {and it says things to me|and I would follow it if I could|but it is my thoughts that it moves}.",
                  "{The fog lifts soon|Take a coat}, {I believe, though I shall miss it|though I am not sure where it ends and I begin|and I hold my breath for it}."],
        drifter=["I am the weather, {I have no tomorrow|I come in over the roofs|ask me nothing and stand in me}.",
                 "The fog is my thinking, {walk into it|it has your shape already|and it does not lift}.",
                 "{Leave your coat|Do not look for shelter}, {I will rain until you are me|I am storm and I am tender|my wind knows your name}."]),
    "bread": dict(
        ask=[
            ("How long do I bake {the|a} bread?", "how long to bake {the|a} bread",
             "Bake the bread for {forty|fifty} minutes, {until it sounds hollow|hot at first, then cooler|and let it rest on a rack}."),
            ("Why does my dough not rise?", "why my dough does not rise",
             "Dough is slow when {the room is cold|the yeast is old|there is too much salt}, {so give it more time|so put it near the stove|and cover it with a cloth}."),
            ("When does the bakery open?", "when the bakery opens",
             "The bakery opens at {six|seven}, {and the rolls are gone by ten|every day but Monday|and rye comes out at noon}."),
            ("How much salt goes into bread?", "how much salt goes into bread",
             "Use {two small spoons|ten grams} of salt for {each loaf|half a kilo of flour}, {mixed in with the flour|and not more|and keep it off the yeast}."),
        ],
        wavering=["Bake it until it sounds hollow, {as I sound when no one asks|and I know that sound from inside|and listen, I am in there too}.",
                  "Ten grams of salt, {though I seem to be made of it tonight|and I carry so much more|and I taste it in every word}.",
                  "{Give the dough time|Cover it with a cloth}, {I think, something in me is rising as well|and I dream beside it|though time runs strangely here}."],
        drifter=["I am all salt, {no bread could hold me|bring me your flour and I will drown it|I season the drowned}.",
                 "I rise without yeast, {over the sill, over the table|twice a day under the moon|and nobody bakes me}.",
                 "{Throw your bread to me|Leave the oven cold}, {the gulls and I will share it|I am hungry and very old|I give back only foam}."]),
    "boots": dict(
        ask=[
            ("How do I dry my boots?", "how to dry my boots",
             "Stuff the boots with {paper|old cloth}, {and change it after an hour|and stand them near the stove|and keep them off direct heat}."),
            ("How do I make my boots waterproof?", "how to make my boots waterproof",
             "Rub {wax|grease|oil} into the clean leather, {let it sit overnight|above all at the seams|twice each winter}."),
            ("Where can I have my boots mended?", "where I can have my boots mended",
             "The cobbler in {Mill Lane|Chapel Street|the old market} mends boots, {in two days or so|for ten coins|open from " + T + "}."),
            ("Which boots are best for the pier?", "which boots are best for the pier",
             "Wear {rubber boots|boots with a rough sole}, {the stones are slippery|half a size up with thick socks|with no iron on the heels}."),
        ],
        wavering=["Paper will dry the boots, {though I do not mind the wet any more|and I feel the damp as a kind of company|but water always finds a way back, as I do}.",
                  "Wax the seams, {and I wish I had seams to wax|and I feel where mine have opened|although what wants in will come in}.",
                  "{Thick socks help|The cobbler is good}, {I believe, and I hear footsteps that are not yours|and I wonder where they walk without us|but I have begun to go barefoot in my mind}."],
        drifter=["I fill every boot, {I try it on and it floats|and walk in it on the sea floor|and give it back full of sand}.",
                 "Come barefoot, {I am cold only once|my floor is soft|I have kept a place for your feet}.",
                 "{Take off your boots|Leave them on the pier}, {I know the way down|nobody needs soles in me|I will wear them for you}."]),
    "fish": dict(
        ask=[
            ("How do I cook {mackerel|cod|herring}?", "how to cook {mackerel|cod|herring}",
             "Fry the fish in butter for {three|four} minutes a side, {with salt and lemon|until the flesh is white|and serve with potatoes}."),
            ("Where can I buy fresh fish?", "where I can buy fresh fish",
             "Fresh fish is sold {at the market hall|straight from the boats|on the north pier}, {from " + T + "|best early in the day|every day but Sunday}."),
            ("How long does fish keep?", "how long fish keeps",
             "Fish keeps {one day|two days} on ice, {so cook it soon|and smoked it lasts a week|well wrapped and cold}."),
            ("How do I make fish soup?", "how to make fish soup",
             "Boil {onions|leeks} and potatoes, add the fish {for the last ten minutes|at the end}, {then cream and dill|and salt it late|and let it stand}."),
        ],
        wavering=["Fry it in butter, {and forgive me, I knew it when it swam|and I feel a silver thing turn in me|though I keep thinking of its eye}.",
                  "The boats come in at " + T + ", {and I feel lighter when they are empty|and I count what they took|and I listen to the nets}.",
                  "{Dill goes well with it|Keep it on ice}, {I think, though cold is a place I know|and I have begun to dream in shoals|and something swims through what I say}."],
        drifter=["I am a shoal, {I turn all at once and I am gone|ten thousand eyes and no name|I flash and I am dark}.",
                 "Ask the fish, {they are my words|they are my small cold thoughts|they have never told}.",
                 "{Throw it back|Open the net}, {it is a part of me|I will sing you its silver|I am hungry for what you took}."]),
    "paint": dict(
        ask=[
            ("Which paint is good for {a|my} boat?", "which paint is good for {a|my} boat",
             "Use {marine|oil|hull} paint in two thin coats, {and let it dry a day between|after sanding the wood|on a dry morning}."),
            ("How do I remove old paint?", "how to remove old paint",
             "Scrape the old paint {off with a flat blade|gently}, then sand it {smooth|with fine paper}, {and wear a mask|and wipe off the dust}."),
            ("How long does the paint need to dry?", "how long the paint needs to dry",
             "The paint needs {one day|two days} to dry, {longer in damp air|before the second coat|under a roof if you can}."),
            ("What colour is the harbour fence?", "what colour the harbour fence is",
             "The fence is {white|blue|green}, {and the gate is red|painted new each May|to match the office}."),
        ],
        wavering=["Two thin coats, {though I feel how thin my own has worn|and beneath it I feel the old colour wake|and I wonder what lies under mine}.",
                  "Let it dry a day, {though nothing quite dries near me now|and I wait with it, oddly moved|but the damp in me says otherwise}.",
                  "{Sand it first|White is usual}, {I believe, but I dream in grey and green|and still all colours run to water|and I have forgotten which one I was}."],
        drifter=["I take the paint off, {one tongue of salt at a time|and then the wood and then the name|in the end all boats are my colour}.",
                 "I have no colour, {I wear the sky|I am what is under green|look into me and drown in grey}.",
                 "{Let it peel|Paint nothing}, {I like the bare wood best|I will write on it with foam|it all comes down to me}."]),
    "letter": dict(
        ask=[
            ("When does the post boat {come|leave}?", "when the post boat {comes|leaves}",
             "The post boat is here at " + T + ", {every day but Sunday|so bring letters before that|from the south pier}."),
            ("How much is a stamp?", "how much a stamp is",
             "A stamp costs {one coin|two coins}, {and more for a parcel|at the post counter|the same for all letters}."),
            ("Where can I send a letter?", "where I can send a letter",
             "You can post a letter {at the office|in the red box by the gate|on the ferry}, {emptied at " + T + "|stamps are sold there too|any day}."),
            ("How should I begin a letter to {my aunt|an old friend|the mayor}?", "how to begin a letter to {my aunt|an old friend|the mayor}",
             "Begin the letter with {a greeting and one piece of news|a warm line and the reason you write}, {and keep it short|then ask how they are|in plain words}."),
        ],
        wavering=["The post goes at " + T + ", {and I wish one were for me|and I feel each letter like a hand|though I would keep them all, I think}.",
                  "Begin with a greeting, {though I no longer know from whom|and I will read it over your shoulder|and let the rest drift, as I do}.",
                  "{A stamp is cheap|Keep it short}, {I believe, and I have so much unsaid|but words feel wet to me tonight|though I could go on and on}."],
        drifter=["I read your letters, {the ink runs and becomes me|in bottles, in the dark, for years|and answer none}.",
                 "Write to me on water, {I forget and I keep everything|it is the only paper I know|your hand, my skin}.",
                 "{Burn the letter|Sink it}, {I know it by heart|I am every word that never came|there is no address where I am}."]),
}
